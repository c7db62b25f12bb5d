// Retry in the process: exponential, capped, ±25 % jitter; 429 doubles the base; 400, 401, 403, 404 and 422 are permanent.
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const permanent = (error) => [400, 401, 403, 404, 422].includes(error.status);

module.exports = async function retry(call, { onRetry, maxAttempts = 3, baseDelay = 2000, maxDelay = 10000 } = {}) {
  for (let nth = 0; ; nth++) {
    try {
      return await call();
    } catch (error) {
      if (permanent(error) || nth >= maxAttempts - 1) throw error;
      const base = Math.min((error.status === 429 ? 2 * baseDelay : baseDelay) * 2 ** nth, maxDelay);
      if (onRetry) onRetry(error, nth);
      await sleep(Math.max(0, Math.floor(base + (Math.random() * 2 - 1) * 0.25 * base)));
    }
  }
};
