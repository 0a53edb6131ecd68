-- Put before every script. K (key prefixes), TICKET, TICKETS_MAX, MAX_LOSSES, MAX_RETRIES,
-- RETRY_PAUSE_S, RETENTION_S, IDEMPOTENCY_S, DEATH_S, UNWELL_S, ATTACH_S, WINDOW_S and PACE_S are set
-- by the line above, as are LANE_MOST, OWNER_MOST and LOG_MOST; the schema is in shared/keys.py.
-- Scripts run alone, so what one does is one step. All times are Redis' own, and never go back.

local call = redis.call

local function precise(number)
  return string.format('%.17g', number)
end

local function wall()
  local time = call('TIME')
  return tonumber(time[1]) + tonumber(time[2]) / 1e6
end

-- Never before the reaper's last turn: when Redis' clock is set back time stands still until its next
-- turn, which notes by how much the farm is ahead from then on.
local function now()
  local ahead, reaped = unpack(call('MGET', K.ahead, K.reaped))
  return math.max(wall() + tonumber(ahead or 0), tonumber(reaped or 0))
end

local function count(outcome)
  call('HINCRBY', K.totals, outcome, 1)
end
