"""Reports: tables for a person, plain data for a program."""

from levit_deploy.report.benchmark import benchmark_data, print_benchmark
from levit_deploy.report.checkpoint import checkpoint_data, print_checkpoint
from levit_deploy.report.console import console
from levit_deploy.report.data import to_json, versions
from levit_deploy.report.demo import print_comparison
from levit_deploy.report.evaluation import evaluation_data, print_evaluation
from levit_deploy.report.proof import print_verification, print_verified, verification_data
from levit_deploy.report.published import print_published, published_data

__all__ = [
    "benchmark_data",
    "checkpoint_data",
    "console",
    "evaluation_data",
    "print_benchmark",
    "print_checkpoint",
    "print_comparison",
    "print_evaluation",
    "print_published",
    "print_verification",
    "print_verified",
    "published_data",
    "to_json",
    "verification_data",
    "versions",
]
