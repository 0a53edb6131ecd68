"""The Redis key schema, on one screen. Nobody else spells a key; the Lua scripts get these names.

farm:job:<job>        hash    record, renders, open, created_at, drop:<k>, cached:<k>, ...
farm:render:<render>  hash    version, spec, state, attempt, token, tag, wanted, ...
farm:jobs             zset    "<job> <owner>" -> when it came: every job there is a record of
farm:jobs:<owner>     zset    job -> when it came: the same of one owner
farm:trimmed          string  up to where the index of jobs was searched for records that are gone
farm:users:<render>   zset    job that refers to it -> when it came, but for the one it was made for
farm:waiters:<render> set     "<job>:<index>" that this render's end will advance
farm:events:<job>     list    what happened to it, "<unix seconds> <type> [<index> <attempt>]"
farm:live:<job>       channel its events as they happen, its progress and its previews
farm:current:<fp>     string  the render that answers, or is making, this fingerprint
farm:pending:<pool>   zset    render -> start tag (fair order; rank = queue position)
farm:delayed:<pool>   zset    render -> when its pause after a fault is over, unix seconds
farm:flows:<pool>     hash    "<owner>:<priority>" -> finish tag of its last render
farm:vtime:<pool>     string  start tag of the render that was claimed last
farm:rate:<pool>      string  measured / predicted device seconds, moving mean
farm:pools            set     every pool that ever had a render
farm:leases           zset    render -> end of its lease, unix seconds
farm:reaped           string  when the reaper came last, unix seconds
farm:ahead            string  seconds by which the farm's clock is ahead of Redis', once that was set back
farm:slot:<slot>      set     renders that this worker slot holds
farm:token:<token>    string  the render that this claim got (an hour: a claim may be repeated); empty: revoked
farm:poison           zset    render that took down its worker too often -> when it failed
farm:condemned:<tok>  string  gc takes this picture away: nobody publishes it any more (a day)
farm:deadlines        zset    job -> deadline, unix seconds
farm:idem:<owner>:<h> string  "<job> <body hash>" of an Idempotency-Key (a day)
farm:outbox           zset    owner -> when one of its webhooks may be tried next, unix seconds
farm:lanes:<owner>    zset    receiver's origin -> the same
farm:lane:<o> <r>     zset    "<job> <name>" -> when it may be tried; while it is: end of its lease
farm:flight:<o>[ <r>] zset    "<job> <name>" that is being tried -> end of its lease
farm:undelivered      zset    "<job> <name>" -> when it is, or was, due
farm:deliveries:<job> hash    <name>: "<at> <state> <tries> <due>", <name>:log, :body, :token
farm:delivered        hash    outcome of an attempt -> count
farm:webhooks:<owner> zset    secret that signs its webhooks -> until when
farm:attended         zset    job -> when its queued images are canceled unless its client comes back
farm:attach:<owner>:<h> zset  job -> when it came: unfinished jobs of one body, for a repeated request
farm:unattended       string  when the chores last looked for jobs whose client has left
farm:notes:<owner>    hash    what a dialect remembers of an owner: name -> value
farm:workers          hash    worker -> "<last seen> <ttl> <status JSON>"
farm:death:<slot>     string  "<at> <cause>" of the last worker that died there (a week)
farm:orders           hash    worker -> "drain": what an operator wants of it, until it is lifted
farm:unwell:<slot>    zset    token -> when a worker of this slot left because it was unwell
farm:totals           hash    outcome -> count
farm:serial           string  ids of tickets
farm:secret:<name>    string  secrets that every API process must share
farm:keys             hash    SHA-256 of an API key -> its record
farm:keys:version     string  a new one with every change of a key
farm:keys:used        hash    id of a key -> when it was used last, to within minutes
farm:audit            stream  what admins did, the last 10,000 acts
farm:submits:<owner>  string  when the owner's allowance of orders is whole again, unix seconds
farm:owed             hash    owner -> how many queued renders are on his account
farm:owed_ms          hash    owner -> their predicted device milliseconds
farm:waiting          hash    "<pool> <priority>" -> how many renders are queued there
farm:waiting_ms       hash    the same -> their device milliseconds, by the model entry's first guess
farm:worked_ms        hash    pool -> device milliseconds that went into pictures
farm:spent:<day>      zset    owner -> the same of one day of UTC, counted from 1970 (two days)
farm:deaths           hash    cause -> how many workers died of it
farm:pace:pool:<pool> string  "<renders claimed per second> <when>", a mean that fades in a minute
farm:pace:owner:<o>   string  the same of one owner (ten minutes)
render.<pool>         list    tickets: the Celery queue of one pool
"""

KEYS = {
    "job": "farm:job:",
    "render": "farm:render:",
    "jobs": "farm:jobs",
    "owned": "farm:jobs:",
    "trimmed": "farm:trimmed",
    "users": "farm:users:",
    "waiters": "farm:waiters:",
    "events": "farm:events:",
    "live": "farm:live:",
    "current": "farm:current:",
    "pending": "farm:pending:",
    "delayed": "farm:delayed:",
    "flows": "farm:flows:",
    "vtime": "farm:vtime:",
    "rate": "farm:rate:",
    "pools": "farm:pools",
    "leases": "farm:leases",
    "reaped": "farm:reaped",
    "ahead": "farm:ahead",
    "slot": "farm:slot:",
    "token": "farm:token:",
    "poison": "farm:poison",
    "condemned": "farm:condemned:",
    "deadlines": "farm:deadlines",
    "idem": "farm:idem:",
    "outbox": "farm:outbox",
    "lanes": "farm:lanes:",
    "lane": "farm:lane:",
    "flight": "farm:flight:",
    "undelivered": "farm:undelivered",
    "deliveries": "farm:deliveries:",
    "delivered": "farm:delivered",
    "webhooks": "farm:webhooks:",
    "attended": "farm:attended",
    "attach": "farm:attach:",
    "unattended": "farm:unattended",
    "notes": "farm:notes:",
    "workers": "farm:workers",
    "death": "farm:death:",
    "orders": "farm:orders",
    "unwell": "farm:unwell:",
    "totals": "farm:totals",
    "serial": "farm:serial",
    "secret": "farm:secret:",
    "keys": "farm:keys",
    "keys_version": "farm:keys:version",
    "used": "farm:keys:used",
    "audit": "farm:audit",
    "submits": "farm:submits:",
    "owed": "farm:owed",
    "owed_ms": "farm:owed_ms",
    "waiting": "farm:waiting",
    "waiting_ms": "farm:waiting_ms",
    "worked_ms": "farm:worked_ms",
    "spent": "farm:spent:",
    "deaths": "farm:deaths",
    "pace": "farm:pace:",
    "queue": "render.",
}


def queue_name(pool: str) -> str:
    """The Celery queue that carries the tickets of one pool."""
    return KEYS["queue"] + pool
