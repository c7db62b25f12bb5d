-- Prelude of the scripts that count lost deliveries.
--
-- A job is poison when `most` of its deliveries were lost while it may have killed its replica. The first lost delivery
-- counts, whatever ran beside it. A later one counts when the job ran alone (src/suspects.rs), which it notes before it
-- does; one that was claimed, or ran beside others, was a bystander. The bound on all lost deliveries is for jobs that kill
-- a replica before they begin: by a payload that cannot be received.
local BYSTANDING = 4

-- The sentence that a student reads about such a job. `jobs/failed_reason.rs` decides the wording, and a test compares
-- the two.
local SENTENCE = 'The job could not be finished.'

-- True if the job ran alone under this token. `begun` is the token in the job's hash.
local function ran_alone(token, begun) return token and token ~= '' and begun == token end

-- Returns the reason if a job is poison: `lost` of its deliveries ended without an outcome, `cut` of them while it ran.
local function poison(lost, cut, most)
  if cut < most and lost < most * BYSTANDING then return end
  return SENTENCE .. ' poison: ' .. (cut < most and lost or cut) .. ' deliveries ended without an outcome'
end
