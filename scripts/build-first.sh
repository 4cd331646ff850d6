#!/bin/sh
# Build the first process of containers for both processors that nodes have. Needs gcc and its
# cross compiler (Debian: gcc and gcc-aarch64-linux-gnu); what it makes is kept in the repository.
set -eu
cd "$(dirname "$0")/../src/p2prc/runtime/docker/inside"
for processor in x86_64 aarch64; do
    "$processor-linux-gnu-gcc" -Os -static -nostdlib -ffreestanding -fno-stack-protector -fno-pie \
        -no-pie -fno-builtin -fno-asynchronous-unwind-tables -fno-tree-loop-distribute-patterns \
        -Wall -Wextra -Werror -s -Wl,--build-id=none -Wl,-z,noseparate-code -Wl,-z,noexecstack \
        -o "first-$processor" first.c
done
