// How many milliseconds of CPU time a process takes while a member waits for 1.5 seconds for one that never comes.
import { WorkerGroup } from 'batchnorm/workers';

const timeout = 1500;

async function taken(wait) {
  const member = WorkerGroup.join(new WorkerGroup(2, { timeout }).handle, 0);
  const before = process.cpuUsage();
  try {
    await wait(member);
  } catch (error) {
    if (error.code !== 'ERR_BATCHNORM_GROUP_BROKEN') throw error;
  }
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1000;
}

const blocking = await taken((member) => member.allReduce(new Float64Array(1)));
const later = await taken((member) => member.allReduceAsync(new Float64Array(1)));
process.stdout.write(JSON.stringify({ blocking, later }));
