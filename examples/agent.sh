#!/bin/sh
# Any program: the query comes as JSON on stdin, stdout is the answer, stderr is the query's log.
#
# WORKER_HANDLER='command:./agent.sh' trio-worker run
echo "attempt $WEBBUDDY_QUERY_ATTEMPT at query $WEBBUDDY_QUERY_ID" >&2
size=$(wc -c)
[ "$size" -gt 0 ] || exit 75 # try again later
echo '{"extend": 60}' >"$WEBBUDDY_QUERY_CONTROL"              # there is much to do
echo "{\"save\": {\"size\": $size}}" >"$WEBBUDDY_QUERY_CONTROL" # the next attempt has it in WEBBUDDY_QUERY_SAVED
echo "Your query has $((size)) bytes as JSON."
