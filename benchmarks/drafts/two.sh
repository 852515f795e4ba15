cd /tmp/repo
export PYTHONPATH=/tmp/site:/tmp/repo W2W_CACHE=/tmp/w2wc TMPDIR=/tmp PYTHONUNBUFFERED=1
D=$(($(date +%s)+${1}))
while pgrep -f "gpu.py data" > /dev/null; do sleep 0.5; done
tail -c 300 /tmp/data.log; ls -la /tmp/w/contrastive
python3 .gpu/gpu.py refine > $OUT/refine.log 2>&1 &
python3 .gpu/gpu.py train contrastive $2 $D 2>&1 | tr '\r' '\n' | grep -v 'step/s\|^$' | tee $OUT/contrastive.log
python3 .gpu/gpu.py train planted $2 $D 2>&1 | tr '\r' '\n' | grep -v 'step/s\|^$' | tee $OUT/planted.log
wait
tr '\r' '\n' < $OUT/refine.log | grep 'refine' | grep -v step/s | tail -3; tail -c 300 $OUT/refine.log
