-- SPDX-License-Identifier: Apache-2.0
CREATE TABLE containers (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    managed INTEGER NOT NULL,          -- 1: declared through desired state, 0: made by hand
    spec TEXT NOT NULL,                -- JSON, normal form of what was given
    spec_hash TEXT NOT NULL,
    image_id TEXT NOT NULL,
    created_at REAL NOT NULL,
    resolved TEXT NOT NULL,            -- JSON: argv, env, workdir, user, cgroup, merged with the image at creation
    extra TEXT NOT NULL,               -- JSON, kept for an API and opaque to the engine
    auto_remove INTEGER NOT NULL,
    run TEXT NOT NULL                  -- JSON: status, wanted, exit code, times, counts
);
CREATE TABLE volumes (
    name TEXT PRIMARY KEY,
    spec TEXT NOT NULL,
    anonymous INTEGER NOT NULL,
    managed INTEGER NOT NULL,
    created_at REAL NOT NULL
);
CREATE TABLE cgroups (
    name TEXT PRIMARY KEY,
    spec TEXT NOT NULL,
    managed INTEGER NOT NULL,
    created_at REAL NOT NULL
);
CREATE TABLE declared (               -- desired state of kinds whose records live elsewhere (images, networks)
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    spec TEXT NOT NULL,
    spec_hash TEXT NOT NULL,
    result TEXT NOT NULL,             -- JSON: what the spec resolved to
    PRIMARY KEY (kind, name)
);
