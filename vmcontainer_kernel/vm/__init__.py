"""Machines: everything that makes a Linux kernel run beside the host's."""
