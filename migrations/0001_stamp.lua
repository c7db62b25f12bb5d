-- Stamps the keyspace: from here on the ledger says what has been done to it. Changes no other key.
-- KEYS and ARGV as in src/migrate/common.lua
return { '0', 0, {} }
