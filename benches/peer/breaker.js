// A breaker over five Redis keys with plain commands, race conditions included: nothing is atomic.
class CircuitOpenError extends Error {}

module.exports = class Breaker {
  constructor(redis, name, options = {}) {
    this.redis = redis;
    this.options = { failureThreshold: 5, successThreshold: 2, timeout: 60000, window: 60000, ...options };
    const key = (suffix) => `circuit:${name}:${suffix}`;
    this.keys = {
      state: key('state'),
      failures: key('failures'),
      successes: key('successes'),
      openedAt: key('opened_at'),
      attempts: key('attempts'),
    };
  }

  async state() {
    return (await this.redis.get(this.keys.state)) || 'CLOSED';
  }

  async execute(call) {
    if ((await this.state()) === 'OPEN') {
      const openedAt = Number.parseInt((await this.redis.get(this.keys.openedAt)) || '0', 10);
      if (Date.now() - openedAt <= this.options.timeout) throw new CircuitOpenError('circuit open');
      await this.halfOpen();
    }
    let result;
    try {
      result = await call();
    } catch (error) {
      await this.failure();
      throw error;
    }
    await this.success();
    return result;
  }

  async success() {
    if ((await this.state()) === 'HALF_OPEN') {
      const successes = await this.redis.incr(this.keys.successes);
      if (successes >= this.options.successThreshold) await this.close();
    }
    await this.redis.del(this.keys.failures);
  }

  async failure() {
    const state = await this.state();
    await this.redis.incr(this.keys.failures);
    await this.redis.expire(this.keys.failures, Math.ceil(this.options.window / 1000));
    const failures = Number.parseInt((await this.redis.get(this.keys.failures)) || '0', 10);
    const tooMany = state === 'CLOSED' && failures >= this.options.failureThreshold;
    if (state === 'HALF_OPEN' || tooMany) await this.open();
  }

  async open() {
    await this.redis.set(this.keys.state, 'OPEN');
    await this.redis.set(this.keys.openedAt, String(Date.now()));
    await this.redis.del(this.keys.successes);
  }

  async halfOpen() {
    await this.redis.set(this.keys.state, 'HALF_OPEN');
    await this.redis.set(this.keys.attempts, '0');
    await this.redis.del(this.keys.successes);
    await this.redis.del(this.keys.failures);
  }

  async close() {
    await this.redis.set(this.keys.state, 'CLOSED');
    for (const key of ['failures', 'successes', 'openedAt', 'attempts']) await this.redis.del(this.keys[key]);
  }
};
module.exports.CircuitOpenError = CircuitOpenError;
