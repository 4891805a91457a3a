# Every node sources this file right before `ray start` (cluster.yaml, cluster/local.yaml). It sets the environment of Ray, and so of every
# job. A node without a token does not start.

# Ray's launcher sets both variables for each command. Workers would inherit them, and CPU engines would run with one thread and without
# warnings.
unset OMP_NUM_THREADS PYTHONWARNINGS

# The cluster file (cluster.yaml or cluster/local.yaml) writes S4V_ROOT and S4V_SCRATCH to ~/.s4v_env.
if [ -f ~/.s4v_env ]; then . ~/.s4v_env; fi
export S4V_SCRATCH="${S4V_SCRATCH:-$HOME/s4v-scratch}"
# Keep checkpoints from the hub beside those from the bucket: each node downloads one once, for all its engines.
export HF_HOME="$S4V_SCRATCH/huggingface"

export PATH="$HOME/s4v-venv/bin:$PATH"
# The package `serve` is imported from the checkout. It is not installed, because other projects have a package of that name.
export PYTHONPATH="$HOME/s4v${PYTHONPATH:+:$PYTHONPATH}"
export RAY_AUTH_MODE=token
export RAY_USAGE_STATS_ENABLED=0
# `ray job stop` sends SIGTERM, and SIGKILL this many seconds later; training saves a checkpoint meanwhile (--saving.grace-s). By default it
# is 3. A caption pass ends within 2 s in any case.
export RAY_JOB_STOP_WAIT_TIME_S=100
# A host that stops responding stalls a run for 438 s with Ray's default settings, and for 23 to 61 s with these (tests/perf/RESULTS.md).
export RAY_grpc_client_keepalive_time_ms=10000 RAY_grpc_client_keepalive_timeout_ms=10000
# By default Ray starts its workers at niceness 15, and engines would have to yield to everything else on the node.
export RAY_worker_niceness=0
# While engines are busy, Serve's proxy refuses requests before they reach the endpoints (serve/front/shedding.py).
export RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=serve.front.shedding:middlewares
# Proxy, ingress and engines call each other by gRPC, which is cheaper than Ray's actor calls (serve/front/node_variables.py).
export RAY_SERVE_USE_GRPC_BY_DEFAULT=1

# Every worker holds sockets to all others; the usual limit of 1024 open files is reached at a few dozen workers.
ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -Hn)"

if [ ! -s ~/.ray/auth_token ]; then
  echo "no token in ~/.ray/auth_token: make one as cluster/README.md says, then run ray up again" >&2
  return 1
fi
# Ray 2.60 creates the token file with mode 0644, but anyone who reads it can run code on all nodes.
chmod 600 ~/.ray/auth_token
mkdir -p "$S4V_SCRATCH/spill" "$HF_HOME" || return 1

# Job entry points run in the folder where Ray was started, so that `ray job submit -- python ray_jobs/caption.py` finds the script.
cd ~/s4v || return 1
