-- Prelude of the scripts that belong to no layout: what equal_jobs.lua expects to be defined.
local call, protected = redis.call, redis.pcall
