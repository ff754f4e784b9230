"""Teachers: networks trained on real data, and pools of them. One kind of pool per file."""

from datastill.teachers.pool import Context, Pool, Teacher, Teachers, Trajectory

__all__ = ["Context", "Pool", "Teacher", "Teachers", "Trajectory"]
