import pytest
import torch

from levit_deploy.targets.plan import Plan


@pytest.fixture
def sabotaged_export(monkeypatch) -> None:
    """Every network that is exported has one wrong weight."""
    original = Plan.network

    def sabotaged(*arguments):
        model = original(*arguments)
        with torch.no_grad():
            model.head.weight[0, 0] += 1
        return model

    monkeypatch.setattr(Plan, "network", sabotaged)
