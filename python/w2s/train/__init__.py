"""Makes the pair: supervised fine-tuning (`train_sft`) and preference training (`train_dpo`)."""

from w2s.train.dpo import DPOConfig, train_dpo
from w2s.train.loop import ConfigError, StepReport, TrainResult
from w2s.train.rows import RowError
from w2s.train.sft import SFTConfig, train_sft

__all__ = [
    "ConfigError",
    "DPOConfig",
    "RowError",
    "SFTConfig",
    "StepReport",
    "TrainResult",
    "train_dpo",
    "train_sft",
]
