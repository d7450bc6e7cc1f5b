// Node's @grpc/grpc-js as a client or a server of Echo, for `connections.sh`: what it reads and prints is what
// `connections_peer.py` does. The packages are found through NODE_PATH.
'use strict';

const fs = require('node:fs');
const path = require('node:path');
const readline = require('node:readline');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const say = (line) => process.stdout.write(JSON.stringify(line) + '\n');
const proto = path.join(__dirname, '../../examples/echo/echo.proto');
const { Echo } = grpc.loadPackageDefinition(loader.loadSync(proto, { keepCase: true })).echo;
const onCommand = (act) => {
  const commands = readline.createInterface({ input: process.stdin });
  commands.on('line', act);
  commands.on('close', () => process.exit(0));
};

function serve(port) {
  const server = new grpc.Server();
  server.addService(Echo.service, {
    UnaryEcho: (call, callback) => callback(null, { message: call.request.message }),
    ServerStreamingEcho: (call) => {
      const ticks = setInterval(() => call.write({ message: call.request.message }), 50);
      const end = () => clearInterval(ticks);
      call.on('cancelled', end);
      call.on('error', end);
      call.on('close', end);
    },
    ClientStreamingEcho: (call, callback) => callback(null, {}),
    BidirectionalStreamingEcho: (call) => call.end(),
  });
  server.bindAsync(`127.0.0.1:${port}`, grpc.ServerCredentials.createInsecure(), (error, bound) => {
    if (error) throw error;
    say({ port: bound });
  });
  onCommand((command) => {
    if (command !== 'stop') throw new Error(command);
    // It has no grace of its own.
    setTimeout(() => server.forceShutdown(), 500);
    server.tryShutdown(() => say({ stopped: true }));
  });
}

function call(address, authority) {
  const credentials = authority
    ? grpc.credentials.createSsl(fs.readFileSync(authority))
    : grpc.credentials.createInsecure();
  const options = authority ? { 'grpc.ssl_target_name_override': 'localhost' } : {};
  const client = new Echo(address, credentials, options);
  const streams = [];
  onCommand((command) => {
    if (command === 'unary') {
      const metadata = new grpc.Metadata({ waitForReady: true });
      const deadline = Date.now() + 20_000;
      client.UnaryEcho({ message: 'hello' }, metadata, { deadline }, (error) =>
        say({ unary: grpc.status[error ? error.code : 0] }));
    } else if (command === 'stream') {
      const stream = client.ServerStreamingEcho({ message: 'tick', count: 1_000_000, delay_ms: 50 });
      let count = 0;
      streams.push(stream);
      stream.on('data', () => {
        count += 1;
        if (count === 3) say({ streams: true });
      });
      stream.on('error', () => {});
      stream.on('status', (status) => say({ stream: grpc.status[status.code] }));
    } else if (command === 'close') {
      // Its calls would go on.
      streams.forEach((stream) => stream.cancel());
      client.close();
      say({ closed: true });
    }
  });
}

const [role, ...rest] = process.argv.slice(2);
({ server: serve, client: call })[role](...rest);
