-- What tick.lua and settle.lua share; it stands before each of them.
--
-- The takeover by which this server became the master; "" where it never did.

local info = redis.pcall('INFO', 'replication')
info = type(info) == 'string' and info or ''
local earlier, offset = string.match(info, 'master_replid2:(%x+)'), string.match(info, 'second_repl_offset:(%-?%d+)')
local takeover = earlier and string.find(earlier, '[^0]') and offset and earlier .. ':' .. offset or ''
