-- Puts members on record who are new in a room, and tells the room: both or neither. The message names all of them, so
-- it goes out only if all of them are new.
--
-- KEYS[1], KEYS[2], ARGV[1], ARGV[2]: see reap.lua and presence.lua
-- KEYS[3…7]    as send.lua's
--
-- ARGV[3]      the process
-- ARGV[4]      the room
-- ARGV[5…13]   as send.lua's
-- ARGV[14…]    id and name of each member
--
-- Returns, where only some are new, which, counted from 1: they are not on record yet. Else nothing; -1 where the
-- process is not known.

local process, room = ARGV[3], ARGV[4]
if not is_known(process) then
  return -1
end
local new, others = {}, {}
for index = 14, #ARGV, 2 do
  local list = is_in(room, ARGV[index]) and others or new
  list[#list + 1] = index
end
for _, index in ipairs(others) do
  hold(process, room, ARGV[index], ARGV[index + 1])
end
if #others > 0 then
  local numbers = {}
  for number, index in ipairs(new) do
    numbers[number] = (index - 14) / 2 + 1
  end
  return numbers
end
-- First: where Redis has no memory left, it fails before anything is written.
send({unpack(KEYS, 3, 7)}, {unpack(ARGV, 5, 13)})
for _, index in ipairs(new) do
  hold(process, room, ARGV[index], ARGV[index + 1])
end
keep(room)
return {}
