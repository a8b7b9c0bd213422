"""Containers: processes to which one kernel shows a part of itself (see `runtime`)."""
