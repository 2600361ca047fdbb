-- Reads how many connections rooms have, in all processes: one command, however many connections there are.
--
-- KEYS, ARGV[1]: see reap.lua
--
-- ARGV[2]  how many of the rooms with most connections to skip
-- ARGV[3]  how many of them to list after that
-- ARGV[4…] rooms to count
--
-- Returns: for each process its name, connections and rooms; how many rooms there are; the list, as pairs of room and
-- connections; the connections of each room that was asked for.

local found, connections = {}, 0
for _, process in ipairs(redis.call('ZRANGE', processes, 0, -1)) do
  local own = tonumber(redis.call('HGET', counts_of .. process, '*')) or 0
  local rooms = redis.call('HLEN', counts_of .. process)
  connections = connections + own
  -- "*" is no room of its own.
  found[#found + 1] = {process, own, own > 0 and rooms - 1 or rooms}
end

local first, length = tonumber(ARGV[2]), tonumber(ARGV[3])
local listed = {}
if length > 0 then
  -- The first of them is "".
  listed = redis.call('ZREVRANGE', totals, first + 1, first + length, 'WITHSCORES')
end

local counted = {}
for index = 4, #ARGV do
  local room = ARGV[index]
  counted[#counted + 1] = room == '*' and connections or tonumber(redis.call('ZSCORE', totals, room)) or 0
end
return {found, math.max(redis.call('ZCARD', totals) - 1, 0), listed, counted}
