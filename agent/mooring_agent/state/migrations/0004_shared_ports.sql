-- SPDX-License-Identifier: Apache-2.0
CREATE TABLE shared_publications (
    protocol TEXT NOT NULL,
    host_ip TEXT NOT NULL,             -- empty: every address of the host
    host_port INTEGER NOT NULL,
    container_id TEXT NOT NULL,
    container_ip TEXT NOT NULL,        -- empty: has none of this family
    container_port INTEGER NOT NULL,
    container_ipv6 TEXT NOT NULL,
    balance TEXT NOT NULL,             -- empty: the port is not shared
    weight INTEGER NOT NULL,
    seat TEXT NOT NULL,
    PRIMARY KEY (protocol, host_ip, host_port, container_id)
) WITHOUT ROWID;
INSERT INTO shared_publications
    SELECT protocol, CASE host_ip WHEN '0.0.0.0' THEN '' ELSE host_ip END, host_port, container_id,
           container_ip, container_port, '', '', 1, ''
    FROM publications;
DROP TABLE publications;
ALTER TABLE shared_publications RENAME TO publications;
CREATE INDEX publications_by_container ON publications (container_id);
