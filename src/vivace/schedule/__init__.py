"""Who runs, and on which KV blocks. Integers only: no tensor is seen here."""

from vivace.schedule.block_manager import BlockManager
from vivace.schedule.continuous import ContinuousBatching
from vivace.schedule.scheduler import Scheduler
from vivace.schedule.static import StaticBatching

__all__ = ["BlockManager", "ContinuousBatching", "Scheduler", "StaticBatching"]
