#!/usr/bin/env bash
# Every GPU measurement in one call, under 9 minutes; prints one report and writes it to OUT.
#
#     benchmarks/gpu_all.sh                # published sizes on the first GPU
#     SIZE=tiny benchmarks/gpu_all.sh      # small sizes on a CPU: checks that everything runs, measures nothing
#
# Environment: SIZE (gpu or tiny), OUT (report file, default runs/gpu_all.md), PYTHON, REPEAT (timings of each version).
# A part that fails or takes longer than its share says so and the others go on; the exit code is then 1.
set -uo pipefail
cd "$(dirname "$0")/.."
SIZE="${SIZE:-gpu}"
OUT="${OUT:-runs/gpu_all.md}"
REPEAT="${REPEAT:-3}"
PYTHON="${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}"
mkdir -p "$(dirname "$OUT")"
: > "$OUT"
failed=0

# part SECONDS TITLE COMMAND...: run with a time limit, append its output (or its last lines, if it failed) to the report.
part() {
    local limit="$1" title="$2" started=$SECONDS code log
    shift 2
    log="$(mktemp)"
    echo "== $title"
    if timeout --kill-after=5 "$limit" "$@" > "$log" 2>&1; then
        { echo "## $title"; echo; cat "$log"; echo; } >> "$OUT"
    else
        code=$?
        failed=1
        { echo "## $title"; echo; echo "Failed (exit code $code, limit $limit s):"; echo; tail -n 15 "$log"; echo; } >> "$OUT"
    fi
    echo "   $((SECONDS - started)) s"
    rm -f "$log"
}

part 60  "training step, CAMs, targets"       "$PYTHON" -m benchmarks.l2g_speed --size "$SIZE" --only step,cam,target --repeat "$REPEAT"
part 45  "the same without bf16"              "$PYTHON" -m benchmarks.l2g_speed --size "$SIZE" --only step,cam --repeat "$REPEAT" --precision fp32
part 60  "samples, sweep, labels (files)"     "$PYTHON" -m benchmarks.l2g_speed --size "$SIZE" --only sample,sweep,gen_gt --repeat 1
part 90  "segmentation stage"                 "$PYTHON" -m benchmarks.deeplab_speed --size "$SIZE" --repeat "$REPEAT"
if [ "$SIZE" = gpu ]; then crf=(--device cuda --batch 8); else crf=(--size 64x48 --classes 3); fi
part 60  "dense CRF against pydensecrf"        "$PYTHON" -m benchmarks.crf_speed --no-plain --repeat "$REPEAT" "${crf[@]}"
part 130 "L2G as a user runs it"              "$PYTHON" -m benchmarks.user_speed --size "$SIZE"
part 90  "the same with larger batches"       "$PYTHON" -m benchmarks.user_speed --size "$SIZE" train.batch_size=6 cam.batch_size=4

cat "$OUT"
exit "$failed"
