"""Settings of the data check."""

from dataclasses import dataclass

from configs.fields import key


@dataclass
class CheckConfig:
    out: str = key("${run_dir}/check/report.json", "report of scripts.check_data")
    cache: str = key("${data.root}/.check_cache.jsonl", "what earlier checks found, by file size and time; empty: none")
    workers: int = key(0, "processes; 0 is one per core")
    val_lists: list[str] = key(
        ["val_cls.txt", "val_aug.txt", "val.txt"],
        "validation lists, relative to data.root; those that are there are checked, and against data.train_list for overlap",
    )
