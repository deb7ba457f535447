"""Public contract tests for plug-ins: call them from your own tests, with your own classes.

Each raises AssertionError with the rule that is broken.
"""

from mbrl.testing.learners import check_learner, check_policy
from mbrl.testing.models import check_dynamics
from mbrl.testing.rows import rows_for
from mbrl.watching import no_host_reads

__all__ = ["check_dynamics", "check_learner", "check_policy", "no_host_reads", "rows_for"]
