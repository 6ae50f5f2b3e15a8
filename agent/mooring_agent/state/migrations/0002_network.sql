-- SPDX-License-Identifier: Apache-2.0
CREATE TABLE networks (
    name TEXT PRIMARY KEY,
    number INTEGER NOT NULL UNIQUE,    -- part of the bridge's name
    driver TEXT NOT NULL,
    subnet TEXT NOT NULL UNIQUE,
    gateway TEXT NOT NULL,
    nat INTEGER NOT NULL,
    internal INTEGER NOT NULL,
    labels TEXT NOT NULL,              -- JSON
    bridge TEXT NOT NULL UNIQUE,
    created_at REAL NOT NULL
);
CREATE TABLE endpoints (               -- address leases: kept from `allocate` to `release`
    container_id TEXT NOT NULL,
    network TEXT NOT NULL REFERENCES networks (name),
    ipv4 TEXT NOT NULL,
    host_ifname TEXT NOT NULL,
    PRIMARY KEY (container_id, network),
    UNIQUE (network, ipv4)
);
CREATE TABLE publications (
    protocol TEXT NOT NULL,
    host_ip TEXT NOT NULL,             -- 0.0.0.0: every address of the host
    host_port INTEGER NOT NULL,
    container_id TEXT NOT NULL,
    container_ip TEXT NOT NULL,
    container_port INTEGER NOT NULL,
    PRIMARY KEY (protocol, host_ip, host_port)
) WITHOUT ROWID;
CREATE INDEX publications_by_container ON publications (container_id);
