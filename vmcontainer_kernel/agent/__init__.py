"""The program beside a Linux kernel: the same files on the host and in a guest, standard library only."""
