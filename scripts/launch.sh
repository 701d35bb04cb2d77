#!/usr/bin/env bash
# launch.sh MODULE [argument ...]: run one stage as a single process, or through torchrun on several GPUs or machines.
#   PYTHON   interpreter (default: .venv/bin/python if there, else python3)
#   GPUS     comma list of GPUs, one process each (default: whatever is visible, one process)
#   NPROC    processes on this machine, when there are no GPUs to count (default: 1)
#   NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT   for several machines
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ -z "${PYTHON:-}" ]; then
  if [ -x .venv/bin/python ]; then PYTHON=.venv/bin/python; else PYTHON=python3; fi
fi
processes="${NPROC:-1}"
if [ -n "${GPUS:-}" ]; then
  export CUDA_VISIBLE_DEVICES="$GPUS"
  IFS=',' read -r -a gpus <<<"$GPUS"
  processes="${#gpus[@]}"
fi
if [ "$processes" -gt 1 ] || [ "${NNODES:-1}" -gt 1 ]; then
  port=(--standalone)
  if [ "${NNODES:-1}" -gt 1 ]; then
    port=(--nnodes "$NNODES" --node_rank "${NODE_RANK:?set NODE_RANK to this machine (0 is the first)}"
      --master_addr "${MASTER_ADDR:?set MASTER_ADDR to the first machine}" --master_port "${MASTER_PORT:-29500}")
  fi
  exec "$PYTHON" -m utils.runtime.processes "${port[@]}" --nproc_per_node "$processes" -m "$@"
fi
exec "$PYTHON" -m "$@"
