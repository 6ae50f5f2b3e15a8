-- SPDX-License-Identifier: Apache-2.0
-- IPv6 beside IPv4, either alone, and networks without a bridge.
CREATE TABLE networks_of_both (
    name TEXT PRIMARY KEY,
    number INTEGER NOT NULL UNIQUE,    -- part of the bridge's name
    driver TEXT NOT NULL,
    subnet TEXT UNIQUE,                -- NULL: no IPv4
    gateway TEXT,
    ip_range TEXT,
    subnet6 TEXT UNIQUE,               -- NULL: no IPv6
    gateway6 TEXT,
    ip_range6 TEXT,
    settings TEXT NOT NULL,            -- JSON: nat, internal, labels, reserved, mtu, parent, mode
    bridge TEXT UNIQUE,                -- NULL: it has none
    created_at REAL NOT NULL
);
INSERT INTO networks_of_both
    SELECT name, number, driver, subnet, gateway, NULL, NULL, NULL, NULL,
        json_object(
            'nat', json(iif(nat, 'true', 'false')),
            'internal', json(iif(internal, 'true', 'false')),
            'labels', json(labels)
        ),
        bridge, created_at
    FROM networks ORDER BY rowid;
CREATE TABLE endpoints_of_both (       -- address leases: kept from `allocate` to `release`
    container_id TEXT NOT NULL,
    network TEXT NOT NULL REFERENCES networks_of_both (name),
    ipv4 TEXT,
    ipv6 TEXT,
    mac TEXT,                          -- NULL: that of its first address
    host_ifname TEXT NOT NULL,         -- outer end of its cable, '' without one
    ifname TEXT NOT NULL,              -- the interface inside
    PRIMARY KEY (container_id, network),
    UNIQUE (network, ipv4),
    UNIQUE (network, ipv6)
);
INSERT INTO endpoints_of_both
    SELECT container_id, network, ipv4, NULL, NULL, host_ifname,
        'eth' || (
            SELECT count(*) FROM endpoints AS earlier
            WHERE earlier.container_id = endpoints.container_id AND earlier.rowid < endpoints.rowid
        )
    FROM endpoints ORDER BY rowid;
DROP TABLE endpoints;
DROP TABLE networks;
ALTER TABLE networks_of_both RENAME TO networks;
ALTER TABLE endpoints_of_both RENAME TO endpoints;
