"""keras_aeos in the comparison of solvers."""

import tensorflow as tf

import keras_aeos
from keras_aeos.curvature.batches import from_data
from keras_aeos.curvature.objective import Objective
from keras_aeos.solvers.tracking import EigenpairTracker
from tools.benchmarking import networks, problems
from tools.benchmarking.contenders import Contender, Framework, Task
from tools.benchmarking.plan import prepare_device
from tools.benchmarking.reference_solvers import MAX_PRODUCTS, TOLERANCE
from tools.benchmarking.solves import solve


def framework(task: Task, missing: set[str]) -> Framework:
    """TensorFlow, with keras_aeos as it is called, and as a monitor that has traced before."""
    prepare_device()
    model = problems.compiled(problems.BUILDERS[task.name][0]())
    model.set_weights(task.weights)
    rows = len(task.x)
    objective = Objective(model, from_data((task.x, task.y), rows))
    gradient = networks.gradient(model, task.x, task.y, rows)
    vector = tf.constant(task.starts[0])
    kept = objective.linearise()

    def synchronised(value: object) -> None:
        tf.test.experimental.sync_devices()

    def public(repeat: int) -> tuple[float, int]:
        result = keras_aeos.top_eigenpairs(model, (task.x, task.y), batch_size=rows, seed=repeat)
        return float(result.eigenvalues[0]), result.num_hvps

    def traced(repeat: int) -> tuple[float, int]:
        tracker = EigenpairTracker("lanczos", TOLERANCE, MAX_PRODUCTS)
        result = solve(tracker, objective.linearise(), 1, repeat)
        return float(result.eigenvalues[0]), result.num_hvps

    certificate = "error and upper bound"
    return Framework(
        loss=lambda: objective.linearise().loss,
        gradient=lambda: synchronised(gradient()),
        products={"keras_aeos": lambda: synchronised(kept.hessian_product(vector))},
        contenders=[
            Contender("keras_aeos", "default", certificate, public),
            Contender("keras_aeos", "traced before", certificate, traced),
        ],
        device="gpu" if tf.config.list_physical_devices("GPU") else "cpu",
    )
