// The implementations of MPI that tests start, as Debian has them beside each other.
import { spawnSync } from 'node:child_process';
import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

export interface Implementation {
  readonly name: string;
  readonly launcher: string;
  /** More members than CPUs. */
  readonly options: readonly string[];
  readonly library: string;
  /** Starts a member at each of these addresses, over the network alone, by a program in the place of ssh. */
  readonly at: (addresses: readonly string[], agent: string) => readonly string[];
}

const implementations: readonly Implementation[] = [
  {
    name: 'Open MPI',
    launcher: 'mpirun.openmpi',
    options: ['--oversubscribe'],
    library: 'libmpi.so.40',
    at: (addresses, agent) => [
      ...['--mca', 'plm_rsh_agent', agent],
      ...['--host', addresses.map((address) => `${address}:1`).join()],
    ],
  },
  {
    name: 'MPICH',
    launcher: 'mpirun.mpich',
    options: [],
    library: 'libmpich.so.12',
    // Memory that namespaces share would be the quicker way.
    at: (addresses, agent) => [
      ...['-launcher', 'ssh', '-launcher-exec', agent, '-host', addresses.join()],
      ...['-genv', 'MPIR_CVAR_NOLOCAL', '1', '-genv', 'UCX_TLS', 'tcp,self'],
    ],
  },
];

/** Open MPI asks twice before it runs anything for root. */
const asRoot = { OMPI_ALLOW_RUN_AS_ROOT: '1', OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: '1' };

export interface End {
  status: number | null;
  stdout: string;
  stderr: string;
}

/** Seconds after which a launcher and all that it has started are ended: MPI's own start has no time limit. */
const longest = 90;
/** What `timeout` ends with then, or where it had to kill. */
const late = [124, 137];

/** Runs a program to its end; once more where it hung. */
export function runProgram(
  command: readonly string[],
  environment: Readonly<Record<string, string>> = {},
): End {
  const run = () => {
    const { status, stdout, stderr, error } = spawnSync(
      'timeout',
      ['--kill-after=5', String(longest), ...command],
      { encoding: 'utf8', env: { ...process.env, ...asRoot, ...environment }, killSignal: 'SIGKILL' },
    );
    if (error !== undefined) throw error;
    return { status, stdout, stderr };
  };
  const end = run();
  return late.includes(end.status ?? 0) ? run() : end;
}

const isInstalled = ({ launcher }: Implementation) => spawnSync(launcher, ['--version']).status === 0;

export const installed = implementations.filter(isInstalled);
/** Where all of them must be (BATCHNORM_ALL_MPI), one that is missing is a failure. */
export const missing = implementations.filter((one) => !installed.includes(one));
export const mustBeAll = process.env.BATCHNORM_ALL_MPI !== undefined;

/** Two hosts with an address each and a link between them, on one machine. */
export interface Hosts {
  readonly addresses: readonly string[];
  /** What stands for ssh: runs a command on a host, by its address. */
  readonly agent: string;
  /** Runs a command on the first host. */
  readonly onFirst: readonly string[];
  /** Bytes that have come to the first host over the link. */
  received(): number;
  remove(): void;
}

/** @returns undefined where the machine has no network namespaces for us. */
export function makeHosts(folder: string): Hosts | undefined {
  const names = [0, 1].map((i) => `bn${process.pid}-${i}`);
  const addresses = ['10.77.0.1', '10.77.0.2'];
  const ip = (...args: string[]) => spawnSync('ip', args, { encoding: 'utf8' });
  const remove = () => {
    for (const name of names) ip('netns', 'delete', name);
  };
  const steps = [
    ...names.map((name) => ['netns', 'add', name]),
    ['link', 'add', 'link0', 'netns', names[0], 'type', 'veth', 'peer', 'name', 'link1', 'netns', names[1]],
    ...names.flatMap((name, i) => [
      ['-n', name, 'address', 'add', `${addresses[i]}/24`, 'dev', `link${i}`],
      ['-n', name, 'link', 'set', 'lo', 'up'],
      ['-n', name, 'link', 'set', `link${i}`, 'up'],
    ]),
  ];
  if (!steps.every((step) => ip(...step).status === 0)) {
    remove();
    return undefined;
  }
  const enter = (i: number) => `exec ip netns exec ${names[i]} unshare --uts sh -c "hostname host${i}; $*"`;
  const agent = join(folder, 'agent');
  const cases = addresses.map((address, i) => `  ${address}) ${enter(i)} ;;`);
  writeFileSync(
    agent,
    [
      '#!/bin/sh',
      'while :; do case $1 in -*) shift ;; *) break ;; esac; done',
      'host=$1; shift',
      'case $host in',
      ...cases,
      'esac',
    ].join('\n'),
  );
  chmodSync(agent, 0o700);
  return {
    addresses,
    agent,
    onFirst: [
      'ip',
      'netns',
      'exec',
      names[0],
      'unshare',
      '--uts',
      'sh',
      '-c',
      'hostname host0; exec "$@"',
      'sh',
    ],
    received() {
      const [link] = JSON.parse(
        ip('-n', names[0], '-json', '-statistics', 'link', 'show', 'dev', 'link0').stdout,
      );
      return link.stats64.rx.bytes;
    },
    remove,
  };
}
