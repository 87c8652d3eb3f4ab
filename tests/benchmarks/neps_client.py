"""NePS as a strategy of `bench_search.py`, which asks and tells `neps_server.py`."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

from ConfigSpace import ConfigurationSpace

from dsnn_utils.runs.table import to_python
from dsnn_utils.search.space import Fidelity, conditions_of


def described(space: ConfigurationSpace, fidelity: Fidelity) -> dict[str, dict]:
    """The hyperparameters as `neps_server.parameter` takes them; conditions it does not have."""
    found: dict[str, dict] = {}
    for name, h in space.items():
        if hasattr(h, "choices"):
            found[name] = {"kind": "choices", "values": [str(choice) for choice in h.choices]}
        else:
            kind = "integer" if isinstance(h.default_value, int) else "float"
            bounds = to_python({"low": h.lower, "high": h.upper})
            found[name] = {"kind": kind, "values": list(bounds.values()), "log": h.log}
    bounds = {"kind": "integer", "values": [int(fidelity.minimum), int(fidelity.maximum)]}
    return found | {fidelity.name: bounds | {"is_fidelity": True}}


class Neps:
    """Ask and tell as the strategies of `dsnn_utils.search.strategies`.

    `algorithm` is "primo" or "moasha"; `priors` has for each objective what is thought to be good
    for it, a value per hyperparameter (only "primo" takes them, and it may have none).
    """

    def __init__(
        self,
        python: Path,
        algorithm: str,
        space: ConfigurationSpace,
        fidelity: Fidelity,
        seed: int,
        eta: int,
        priors: Mapping[str, Mapping],
    ):
        self._conditions, self._default = conditions_of(space), space.get_default_configuration()
        self._space, self.cpu_s = space, 0.0
        server = [python, Path(__file__).with_name("neps_server.py")]
        self._server = subprocess.Popen(
            server, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        told = {"algorithm": algorithm, "space": described(space, fidelity), "eta": eta}
        self._send(told | {"seed": seed, "priors": priors})

    def ask(self) -> tuple[dict, str]:
        """The next point and its origin; what is inactive is dropped."""
        self._send("ask")
        assert self._server.stdout is not None  # for the types
        answer = json.loads(self._server.stdout.readline())
        point, self.cpu_s = answer["point"], answer["cpu_s"]
        for child, parent, values in self._conditions:
            if point[parent] not in values:
                del point[child]
        return point, "model"

    def tell(self, point: Mapping, costs: list[float], success: bool) -> None:
        """Report the costs of a point, asked for or not."""
        whole = to_python({name: h.default_value for name, h in self._space.items()})
        self._send({"point": whole | dict(point), "costs": costs})

    def close(self) -> None:
        """End the other process."""
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()

    def _send(self, message) -> None:
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(message) + "\n")
        self._server.stdin.flush()
