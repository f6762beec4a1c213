"""FedAvg: clients whose rows stay apart train by themselves, and their weights are averaged (McMahan et al. 2017,
arXiv:1602.05629).

An optimizer step is a round. Its rows (`train.batch_tokens`) are those that the clients have at hand: each client k
starts from the round's weights w, goes over its own n_k of them, and the weights become

    w + sum_k (n_k / n) (w_k - w)                                                       n = sum_k n_k

Everything that trains is sent to each client of a round and back: all weights, or the deltas of a method beside it.
Clients are simulated, one after another in one process; every step of theirs is at the round's learning rate, and
begins with no moments. The mean is taken as it is: `train.max_grad_norm` does not act on it. Raises MethodError beside
a method on `penalty` or `gradient`, which speaks of single steps.

Defaults: 5 clients, one local epoch, 8 rows a step, AdamW (the paper: SGD, which `local_optimizer: sgd` is).
Differs from the paper in: the clients of a round are those that have rows in it, and none are drawn; how unlike their
rows are (`alpha`) follows Hsu et al. 2019 (arXiv:1909.06335), drawn for each class instead of each client.
"""

from __future__ import annotations

from tunewright.contract.method import State
from tunewright.methods.optimization._federated import Client, FederatedMethod
from tunewright.models.flops import counting


class FedAvg(FederatedMethod):
    """Rounds in which clients train apart on their own rows, and are averaged by how many these are."""

    def _client(self, client: Client, state: State) -> None:
        with counting() as counted:
            self._go(client, client.places, self.local_epochs, "rows")
        client.operations = counted.total
