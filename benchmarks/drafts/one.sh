set -e
python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target /tmp/site .whl/*.whl
mkdir -p /tmp/w2wc /tmp/repo
python3 -c "import lzma,shutil; shutil.copyfileobj(lzma.open('.gpu/anatomy-v2.npz.xz'), open('/tmp/w2wc/anatomy-v2.npz','wb'))"
cp -r w2w_lib data .gpu pyproject.toml /tmp/repo/; cd /tmp/repo
export PYTHONPATH=/tmp/site:/tmp/repo W2W_CACHE=/tmp/w2wc TMPDIR=/tmp PYTHONUNBUFFERED=1
nvidia-smi --query-gpu=name --format=csv; nproc; free -g | head -2; which gcc cc
python3 .gpu/gpu.py warm 2>&1 | tail -3
nice -n 5 setsid nohup python3 .gpu/gpu.py data > /tmp/data.log 2>&1 < /dev/null &
python3 .gpu/gpu.py smoke 2>&1 | tr '\r' '\n' | grep -v 'person/s\|step/s\|^$' | tail -40
tail -c 200 /tmp/data.log
