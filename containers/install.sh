#!/bin/sh
# Installs the package from this checkout, in the versions of constraints.txt, into a virtual
# environment, and tries it. Both images are made by it; it needs uv, and Python from 3.10 to 3.13.
#
# usage: containers/install.sh FOLDER [cpu|cuda]
#
# cpu: wheels of PyTorch without CUDA, which are small. cuda, the default: those that pip takes,
# which bring CUDA on Linux.
set -eu
if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    echo 'usage: containers/install.sh FOLDER [cpu|cuda]' >&2
    exit 2
fi
case ${2:-cuda} in
    cpu) export UV_TORCH_BACKEND=cpu ;;
    cuda) ;;
    *) echo "the second argument must be cpu or cuda, got $2." >&2; exit 2 ;;
esac
mkdir -p "$(dirname "$1")"
folder=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
cd "$(dirname "$0")/.."

uv venv --quiet "$folder"
uv pip install --quiet --no-cache --python "$folder" --constraint constraints.txt \
    --build-constraint constraints.txt .

trial=$(mktemp -d)
trap 'rm -rf "$trial"' EXIT
cd "$trial" # so that what is installed is tried, not the checkout
PATH=$folder/bin:$PATH
synthsr --version
synthsr models
synthsr example scan.nii.gz
synthsr predict scan.nii.gz t1.nii.gz --model fast --device cpu
