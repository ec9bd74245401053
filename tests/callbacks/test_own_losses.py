"""Models whose own `train_step` minimises another loss than that of `compile`."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import keras_aeos
from keras_aeos import AEoSMonitor, Eigensolver
from tests.cases import flat

# A model without a loss of `compile` also warns that nothing was measured.
pytestmark = pytest.mark.filterwarnings("default::UserWarning")

RATE = 1e-3
X = np.random.default_rng(0).standard_normal((12, 3))


class Own(keras.Model):
    """Minimises `own_loss(model, batch)` by its own training step."""

    def __init__(self, **networks):
        super().__init__()
        for name, network in networks.items():
            setattr(self, name, network)
        self.generator = keras.random.SeedGenerator(1)
        self.built = True

    def call(self, x):
        return x

    def train_step(self, data):
        batch = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            loss = self.own_loss(batch)
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return {"loss": loss}


def network(*sizes, **options):
    *hidden, last = sizes[1:]
    return keras.Sequential(
        [
            keras.Input(sizes[:1]),
            *(layers.Dense(size, "tanh", **options) for size in hidden),
            layers.Dense(last, **options),
        ]
    )


class VAE(Own):
    """Variational autoencoder: reconstruction and divergence from the prior."""

    def __init__(self):
        super().__init__(encoder=network(3, 4), decoder=network(2, 3))

    def own_loss(self, batch):
        x, _, _ = batch
        code = self.encoder(x)
        mean, log_variance = code[:, :2], code[:, 2:]
        noise = keras.random.normal(ops.shape(mean), seed=self.generator)
        decoded = self.decoder(mean + ops.exp(0.5 * log_variance) * noise)
        prior = ops.square(mean) + ops.exp(log_variance) - 1.0 - log_variance
        return ops.mean(ops.sum(ops.square(x - decoded), 1)) + 0.5 * ops.mean(ops.sum(prior, 1))


class PINN(Own):
    """Physics-informed network: u'' + u = 0, u(0) = 1."""

    def __init__(self):
        super().__init__(u=network(1, 4, 1))

    def own_loss(self, batch):
        x = batch[0][:, :1]
        with tf.GradientTape() as second:
            second.watch(x)
            with tf.GradientTape() as first:
                first.watch(x)
                u = self.u(x)
            slope = first.gradient(u, x)
        residual = second.gradient(slope, x) + u
        return ops.mean(ops.square(residual)) + ops.sum(ops.square(self.u(ops.zeros((1, 1))) - 1.0))


class Distiller(Own):
    """A student that learns the softened outputs of a teacher."""

    def __init__(self):
        super().__init__(teacher=network(3, 5), student=network(3, 4, 5))
        self.teacher.trainable = False

    def own_loss(self, batch):
        x, _, _ = batch
        taught = ops.softmax(self.teacher(x) / 2.0)
        return ops.mean(
            keras.losses.categorical_crossentropy(taught, ops.softmax(self.student(x) / 2.0))
        )


class Contrastive(Own):
    """Two views of an example attract each other, all other examples repel."""

    def __init__(self):
        super().__init__(encoder=network(3, 4, 2))

    def own_loss(self, batch):
        x, _, _ = batch
        first, second = self.encoder(x), self.encoder(x + 0.1)
        similarity = ops.matmul(first, ops.transpose(second))
        return ops.mean(
            keras.losses.sparse_categorical_crossentropy(
                ops.arange(ops.shape(x)[0]), similarity, from_logits=True
            )
        )


class GAN(Own):
    """Two players with an optimizer each; that of `compile` is not used."""

    def __init__(self):
        super().__init__(maker=network(2, 3), judge=network(3, 4, 1))

    def compile(self, judge_optimizer, maker_optimizer):
        super().compile()
        self.judge_optimizer, self.maker_optimizer = judge_optimizer, maker_optimizer

    def judge_loss(self, batch):
        x, _, _ = batch
        noise = keras.random.normal((ops.shape(x)[0], 2), seed=self.generator)
        made, real = self.judge(self.maker(noise)), self.judge(x)
        return ops.mean(ops.softplus(made)) + ops.mean(ops.softplus(-real))

    own_loss = judge_loss

    def maker_loss(self, batch):
        noise = keras.random.normal((ops.shape(batch[0])[0], 2), seed=self.generator)
        return ops.mean(ops.softplus(-self.judge(self.maker(noise))))

    def train_step(self, data):
        batch = keras.utils.unpack_x_y_sample_weight(data)
        for optimizer, player, loss in (
            (self.judge_optimizer, self.judge, self.judge_loss),
            (self.maker_optimizer, self.maker, self.maker_loss),
        ):
            with tf.GradientTape() as tape:
                value = loss(batch)
            variables = player.trainable_variables
            optimizer.apply(tape.gradient(value, variables), variables)
        return {"value": value}


def made(kind):
    keras.config.set_floatx("float64")
    keras.utils.set_random_seed(0)
    model = kind()
    if kind is GAN:
        model.compile(keras.optimizers.Adam(RATE), keras.optimizers.Adam(RATE))
        return model, model.judge_optimizer, model.judge.trainable_variables
    model.compile(keras.optimizers.Adam(RATE))
    return model, model.optimizer, model.trainable_variables


def dense(model, variables):
    """Hessian of the model's own loss, without side effects on its random generator."""
    state = model.generator.state.numpy()
    with tf.GradientTape(persistent=True) as outer:
        with tf.GradientTape() as inner:
            loss = model.own_loss((tf.constant(X), None, None))
        gradients = inner.gradient(loss, [v.value for v in variables])
        flattened = tf.concat([tf.reshape(g, [-1]) for g in gradients], 0)
    model.generator.state.assign(state)
    columns = outer.jacobian(
        flattened,
        [v.value for v in variables],
        experimental_use_pfor=False,
        unconnected_gradients="zero",
    )
    size = flattened.shape[0]
    return np.concatenate([np.reshape(c, (size, -1)) for c in columns], axis=1)


KINDS = [VAE, PINN, Distiller, Contrastive, GAN]


@pytest.mark.parametrize("kind", KINDS)
def test_given_loss_and_optimizer_are_measured(kind):
    model, optimizer, variables = made(kind)
    monitor = AEoSMonitor(
        update_freq=2,
        quantities=["sharpness"],
        probe_size=len(X),
        loss=lambda model, batch: model.own_loss(batch),
        optimizer=optimizer if kind is GAN else None,
        solver=Eigensolver(rtol=1e-6),
    )
    model.fit(X, batch_size=len(X), epochs=2, shuffle=False, verbose=0, callbacks=[monitor])
    (row,) = monitor.history.to_dict("records")
    hessian = dense(model, variables)
    p = flat(keras_aeos.preconditioner(optimizer))
    assert row["sharpness"] == pytest.approx(np.linalg.eigvalsh(hessian)[-1], rel=1e-6)
    top = np.linalg.eigvalsh(hessian / np.sqrt(np.outer(p, p)))[-1]
    assert row["preconditioned_sharpness"] == pytest.approx(top, rel=1e-6)
    assert row["stability_threshold"] == pytest.approx(38 / RATE, rel=1e-6)
    assert row["exact"]


@pytest.mark.parametrize("kind", KINDS)
def test_without_them_the_monitor_says_what_is_missing_and_training_goes_on(kind):
    model, _, _ = made(kind)
    monitor = AEoSMonitor(update_freq=2)
    remedy = "`optimizer=`" if kind is GAN else r"`loss=function\(model, batch\)`"
    with pytest.warns(UserWarning, match=remedy):
        model.fit(X, batch_size=4, epochs=2, verbose=0, callbacks=[monitor])
    assert len(monitor.history) == 3
    assert not monitor.history["exact"].any()


def test_own_step_with_the_loss_of_compile_is_exact():
    class Noisy(keras.Model):
        def train_step(self, data):
            return super().train_step(data)

    keras.utils.set_random_seed(0)
    inputs = keras.Input((3,))
    hidden = layers.Dropout(0.5)(layers.Dense(8, "tanh")(inputs))
    model = Noisy(inputs, layers.Dense(2)(hidden))
    model.compile("adam", loss="mse")
    monitor = AEoSMonitor(update_freq=1)
    model.fit(X, X[:, :2], batch_size=len(X), epochs=2, verbose=0, callbacks=[monitor])
    assert monitor.history["exact"].all()
