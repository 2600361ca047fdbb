-- Puts a message back into its queue, which a worker took and never noted; not if anything became of it meanwhile.
--
-- KEYS[1]  the broker's index of messages: when each was taken or, far ahead, put into its queue
-- KEYS[2]  the list of its queue
--
-- ARGV[1]  its tag
-- ARGV[2]  its score when it was missed
-- ARGV[3]  the message, as it was in the list
-- ARGV[4]  the score of one that is put there now
--
-- Returns 1 if it was put back, 0 if not.

local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not score or tonumber(score) ~= tonumber(ARGV[2]) then
  return 0
end
-- Messages are taken from the other end.
if redis.call('LPOS', KEYS[2], ARGV[3], 'RANK', -1) then
  return 0
end
redis.call('LPUSH', KEYS[2], ARGV[3])
redis.call('ZADD', KEYS[1], ARGV[4], ARGV[1])
return 1
