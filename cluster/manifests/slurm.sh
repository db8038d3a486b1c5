#!/bin/bash
# A Ray cluster inside one Slurm job, and a study on it. A job that is requeued goes on with its study.
#
#     sbatch --nodes 4 --gpus-per-node 8 --export ALL,STUDY=configs/studies/quickstart.yaml cluster/manifests/slurm.sh
#
# Submit it in the checkout, with the environment of constraints.txt active; STORAGE must be a folder that all nodes see.
#SBATCH --job-name=phasetune
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
set -euo pipefail

STUDY=${STUDY:?name a study: sbatch --export ALL,STUDY=configs/studies/quickstart.yaml cluster/manifests/slurm.sh}
STORAGE=${STORAGE:-$SLURM_SUBMIT_DIR/studies}
PORT=${PORT:-$((20000 + SLURM_JOB_ID % 20000))}

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head_ip=$(srun --nodes=1 --ntasks=1 -w "${nodes[0]}" hostname --ip-address | awk '{print $1}')

# One token for this job alone, in a file that its owner alone can read.
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
export RAY_AUTH_TOKEN_PATH=$STORAGE/.ray-token-$SLURM_JOB_ID
mkdir -p "$STORAGE"
(umask 077 && head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$RAY_AUTH_TOKEN_PATH")
trap 'rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT

node=(--num-cpus "$SLURM_CPUS_PER_TASK" --num-gpus "${SLURM_GPUS_ON_NODE:-0}" --disable-usage-stats --block)
srun --nodes=1 --ntasks=1 -w "${nodes[0]}" \
    ray start --head --node-ip-address "$head_ip" --port "$PORT" --dashboard-host 127.0.0.1 "${node[@]}" &
for other in "${nodes[@]:1}"; do
    srun --nodes=1 --ntasks=1 -w "$other" ray start --address "$head_ip:$PORT" "${node[@]}" &
done

# The driver runs beside the head. It is told of the end of the job two minutes before, stops at the next report, and is resumable.
export RAY_ADDRESS=$head_ip:$PORT
until [ "$(ray list nodes --filter state=ALIVE --format json 2> /dev/null | grep -c '"node_id"')" -ge "${#nodes[@]}" ]; do
    sleep 2
done
srun --overlap --nodes=1 --ntasks=1 -w "${nodes[0]}" \
    python -m cluster.attempt --job "slurm-$SLURM_JOB_ID" --storage "$STORAGE" -- run "$STUDY" --address "$head_ip:$PORT" --json &
driver=$!
trap 'kill -TERM "$driver"; wait "$driver" || true; rm -f "$RAY_AUTH_TOKEN_PATH"' TERM
wait "$driver"
