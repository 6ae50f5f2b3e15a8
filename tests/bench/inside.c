/* SPDX-License-Identifier: Apache-2.0
 * What bench.inside runs in and outside of a container: prints the seconds that a fixed piece of work took.
 *
 *   inside cpu          arithmetic in registers
 *   inside memory       copies between two buffers that no cache holds
 *   inside file PATH    writes and reads a file in pieces of 64 KiB, by system calls and the page cache
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { BUFFER = 64 << 20, PIECE = 64 << 10, PIECES = 512, ROUNDS = 4 };

static double now(void)
{
    struct timespec moment;
    clock_gettime(CLOCK_MONOTONIC, &moment);
    return moment.tv_sec + moment.tv_nsec / 1e9;
}

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void compute(void)
{
    volatile uint64_t sink;
    uint64_t state = 88172645463325252ull;
    for (long step = 0; step < 120000000; step++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
    }
    sink = state;
    (void)sink;
}

static void copy(char *from, char *to)
{
    for (int round = 0; round < ROUNDS; round++) {
        memcpy(to, from, BUFFER);
        memcpy(from, to, BUFFER);
    }
}

static void transfer(int file, char *piece)
{
    for (int round = 0; round < ROUNDS; round++) {
        for (int number = 0; number < PIECES; number++)
            if (pwrite(file, piece, PIECE, (off_t)number * PIECE) != PIECE)
                fail("pwrite");
        for (int number = 0; number < PIECES; number++)
            if (pread(file, piece, PIECE, (off_t)number * PIECE) != PIECE)
                fail("pread");
    }
}

int main(int count, char **words)
{
    const char *what = count > 1 ? words[1] : "";
    double began;
    if (!strcmp(what, "cpu")) {
        began = now();
        compute();
    } else if (!strcmp(what, "memory")) {
        char *from = malloc(BUFFER), *to = malloc(BUFFER);
        if (!from || !to)
            fail("malloc");
        memset(from, 1, BUFFER);
        memset(to, 2, BUFFER);
        began = now();
        copy(from, to);
    } else if (!strcmp(what, "file") && count > 2) {
        static char piece[PIECE];
        int file = open(words[2], O_RDWR | O_CREAT | O_TRUNC, 0600);
        if (file < 0)
            fail(words[2]);
        memset(piece, 3, sizeof piece);
        transfer(file, piece); /* the first time makes the file's pages */
        began = now();
        transfer(file, piece);
        unlink(words[2]);
    } else {
        fprintf(stderr, "usage: inside cpu | memory | file PATH\n");
        return 2;
    }
    printf("%.6f\n", now() - began);
    return 0;
}
