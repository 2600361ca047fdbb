-- Takes members out of a room whose time to leave has come, and tells the room: both or neither. The message names all
-- of them, so it goes out only if none has come back, and nobody else has told of any.
--
-- KEYS[1], KEYS[2], ARGV[1], ARGV[2]: see reap.lua and presence.lua
-- KEYS[3…7]    as send.lua's
--
-- ARGV[3]      the room
-- ARGV[4…12]   as send.lua's
-- ARGV[13…]    id of each member, and the time when it was to leave
--
-- Returns, where only some are still to leave, which, counted from 1. Else nothing.

local room = ARGV[3]
local still, are_all = {}, true
for index = 13, #ARGV, 2 do
  local id = ARGV[index]
  local is_due = redis.call('ZSCORE', leaving_of .. room, id) == ARGV[index + 1]
  if is_due and redis.call('HEXISTS', members_of .. room, id) == 1 and not is_held(room, id) then
    still[#still + 1] = (index - 13) / 2 + 1
  else
    are_all = false
  end
end
if not are_all then
  return still
end
-- First: where Redis has no memory left, it fails before anything is written.
send({unpack(KEYS, 3, 7)}, {unpack(ARGV, 4, 12)})
for index = 13, #ARGV, 2 do
  redis.call('HDEL', members_of .. room, ARGV[index])
  redis.call('ZREM', leaving_of .. room, ARGV[index])
end
note_first(room)
return {}
