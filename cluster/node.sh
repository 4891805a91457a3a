# Sourced right before `ray start` on every node (cluster.yaml, cluster/local.yaml): what Ray, and with it every job, finds in its
# environment. Without a token no node starts.

# Ray's launcher sets both for each command. Workers would inherit them: CPU engines with one thread, and no warnings.
unset OMP_NUM_THREADS PYTHONWARNINGS

# S4V_ROOT and S4V_SCRATCH, as the cluster's file says.
if [ -f ~/.s4v_env ]; then . ~/.s4v_env; fi
export S4V_SCRATCH="${S4V_SCRATCH:-$HOME/s4v-scratch}"
# Checkpoints from the hub, beside those from the bucket: once per node, for all its engines.
export HF_HOME="$S4V_SCRATCH/huggingface"

export PATH="$HOME/s4v-venv/bin:$PATH"
# The package serve is not part of an installation, for others have one of that name; it is found in the checkout.
export PYTHONPATH="$HOME/s4v${PYTHONPATH:+:$PYTHONPATH}"
export RAY_AUTH_MODE=token
export RAY_USAGE_STATS_ENABLED=0
# A host that falls silent stalls a run for 438 s with Ray's own settings, for 23 to 61 s with these (tests/perf/RESULTS.md).
export RAY_grpc_client_keepalive_time_ms=10000 RAY_grpc_client_keepalive_timeout_ms=10000
# Ray would take 15 off its workers' priority: engines would give way to whatever else runs on the node.
export RAY_worker_niceness=0
# Endpoints refuse at the door while engines are busy (serve/front/shedding.py).
export RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=serve.front.shedding:middlewares

# Every worker holds sockets to all others; the usual 1024 run out at a few dozen workers.
ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -Hn)"

if [ ! -s ~/.ray/auth_token ]; then
  echo "no token in ~/.ray/auth_token: make one as cluster/README.md says, then run ray up again" >&2
  return 1
fi
# Ray makes it 0644 (2.60); whoever reads it runs code on all nodes.
chmod 600 ~/.ray/auth_token
mkdir -p "$S4V_SCRATCH/spill" "$HF_HOME" || return 1

# Entry points of jobs run where Ray was started: `ray job submit -- python ray_jobs/caption.py`.
cd ~/s4v || return 1
