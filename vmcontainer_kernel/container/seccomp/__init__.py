"""A filter of system calls: from the words of the OCI configuration to a program in the kernel.

profile.py   which calls a container needs, and why the others are closed      → OCI JSON
docker_profile.py  a profile from a file, in Docker's or the specification's form, to such JSON
compiler.py  that JSON, as a record, to a program; syscalls.py has the numbers → bytes
bpf.py       the instructions the program is made of (classic BPF)
cache.py     keeps programs, as compiling costs more than starting a container
install.py   the step which loads it; and the socket for calls that somebody else decides (SCMP_ACT_NOTIFY)
"""
