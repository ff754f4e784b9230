"""Teachers: networks that know real data, and pools of them. One kind of pool a file."""

from datastill.teachers.pool import Context, Pool, Teacher, Teachers, Trajectory

__all__ = ["Context", "Pool", "Teacher", "Teachers", "Trajectory"]
