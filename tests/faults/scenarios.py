"""The faults. Each scenario puts tasks through them and checks what docs/guarantees.md promises.

A scenario asserts what is its own; Stage.settle() asserts for all that nothing confirmed is lost, that nothing is done
that was never sent, and that no worker reports as done what did not write so itself.
"""

import partitions
import rabbitmq_ends
import scripts_end
import surroundings
from stage import LONG, OF_THE_NODE, SCENARIOS, Scenario

__all__ = ["LONG", "OF_THE_NODE", "SCENARIOS", "Scenario"]  # of all four files
PARTS = (scripts_end, rabbitmq_ends, surroundings, partitions)
