import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.InputStreamReader;
import java.math.BigInteger;
import java.net.InetAddress;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Timer;
import java.util.TimerTask;
import java.util.concurrent.ConcurrentHashMap;

import org.eclipse.californium.core.CoapClient;
import org.eclipse.californium.core.CoapResponse;
import org.eclipse.californium.core.config.CoapConfig;
import org.eclipse.californium.core.network.CoapEndpoint;
import org.eclipse.californium.elements.config.Configuration;
import org.eclipse.leshan.client.LeshanClient;
import org.eclipse.leshan.client.LeshanClientBuilder;
import org.eclipse.leshan.client.engine.DefaultRegistrationEngineFactory;
import org.eclipse.leshan.client.object.Security;
import org.eclipse.leshan.client.object.Server;
import org.eclipse.leshan.client.observer.LwM2mClientObserverAdapter;
import org.eclipse.leshan.client.resource.ObjectsInitializer;
import org.eclipse.leshan.client.resource.SimpleInstanceEnabler;
import org.eclipse.leshan.client.send.ManualDataSender;
import org.eclipse.leshan.client.servers.LwM2mServer;
import org.eclipse.leshan.core.ResponseCode;
import org.eclipse.leshan.core.model.ObjectLoader;
import org.eclipse.leshan.core.model.ObjectModel;
import org.eclipse.leshan.core.model.StaticModel;
import org.eclipse.leshan.core.node.LwM2mPath;
import org.eclipse.leshan.core.node.LwM2mResource;
import org.eclipse.leshan.core.node.LwM2mSingleResource;
import org.eclipse.leshan.core.request.BootstrapRequest;
import org.eclipse.leshan.core.request.ContentFormat;
import org.eclipse.leshan.core.request.DeregisterRequest;
import org.eclipse.leshan.core.request.RegisterRequest;
import org.eclipse.leshan.core.request.UpdateRequest;
import org.eclipse.leshan.core.request.argument.Arguments;
import org.eclipse.leshan.core.response.ExecuteResponse;
import org.eclipse.leshan.core.response.ObserveResponse;
import org.eclipse.leshan.core.response.ReadResponse;
import org.eclipse.leshan.core.response.WriteResponse;
import org.eclipse.leshan.transport.californium.client.endpoint.CaliforniumClientEndpointsProvider;
import org.eclipse.leshan.core.util.Hex;
import org.eclipse.leshan.transport.californium.client.endpoint.coap.CoapClientProtocolProvider;
import org.eclipse.leshan.transport.californium.client.endpoint.coaps.CoapsClientProtocolProvider;

/**
 * An LwM2M device made of Eclipse Leshan's client, driven by lines.
 *
 * Arguments: endpoint name, server URI, lifetime in seconds, true for queue mode, and with a coaps URI the PSK identity
 * and the key in hex, or in hex its certificate, its private key (PKCS#8) and the server's certificate. With "bootstrap" in the place of true or false the server is one for bootstrap, reached with what is behind it, or in the clear. Events go to standard output, one JSON object a line; commands come on standard input:
 * "set PATH VALUE", "send FORMAT PATH ...", "collect PATH", "flush FORMAT" (sends what was collected, with its times),
 * "update", "deregister", "quit" (also end of input).
 */
public final class LeshanDevice {

    private static final Map<String, Watched> INSTANCES = new ConcurrentHashMap<>();

    /** Temperature as of the IPSO registry, version 1.1, as far as this device has it. */
    private static final String TEMPERATURE = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><LWM2M>"
            + "<Object ObjectType=\"MODefinition\"><Name>Temperature</Name><Description1>t</Description1>"
            + "<ObjectID>3303</ObjectID><ObjectURN>urn:oma:lwm2m:ext:3303:1.1</ObjectURN>"
            + "<LWM2MVersion>1.0</LWM2MVersion><ObjectVersion>1.1</ObjectVersion>"
            + "<MultipleInstances>Multiple</MultipleInstances><Mandatory>Optional</Mandatory><Resources>"
            + item(5601, "Min Measured Value", "R", "Float") + item(5602, "Max Measured Value", "R", "Float")
            + item(5605, "Reset Min and Max Measured Values", "E", "") + item(5700, "Sensor Value", "R", "Float")
            + item(5701, "Sensor Units", "R", "String") + item(5750, "Application Type", "RW", "String")
            + "</Resources><Description2></Description2></Object></LWM2M>";

    /** Portfolio, as far as this device has it: a resource of several instances that can be written. */
    private static final String PORTFOLIO = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><LWM2M>"
            + "<Object ObjectType=\"MODefinition\"><Name>Portfolio</Name><Description1>p</Description1>"
            + "<ObjectID>16</ObjectID><ObjectURN>urn:oma:lwm2m:oma:16</ObjectURN>"
            + "<LWM2MVersion>1.0</LWM2MVersion><ObjectVersion>1.0</ObjectVersion>"
            + "<MultipleInstances>Multiple</MultipleInstances><Mandatory>Optional</Mandatory><Resources>"
            + item(0, "Identity", "RW", "String").replace("Single", "Multiple")
            + "</Resources><Description2></Description2></Object></LWM2M>";

    private static String item(int id, String name, String operations, String type) {
        return "<Item ID=\"" + id + "\"><Name>" + name + "</Name><Operations>" + operations + "</Operations>"
                + "<MultipleInstances>Single</MultipleInstances><Mandatory>Optional</Mandatory><Type>" + type + "</Type>"
                + "<RangeEnumeration></RangeEnumeration><Units></Units><Description>d</Description></Item>";
    }

    /** An instance that tells what the server does to it. */
    public static final class Watched extends SimpleInstanceEnabler {
        private final int object;

        Watched(int object, int id, Map<Integer, Object> values) {
            super(id, values);
            this.object = object;
            INSTANCES.put("/" + object + "/" + id, this);
        }

        private String path(int resource) {
            return "/" + object + "/" + getId() + "/" + resource;
        }

        @Override
        public WriteResponse write(LwM2mServer server, boolean replace, int resource, LwM2mResource value) {
            WriteResponse response = super.write(server, replace, resource, value);
            String text = value.isMultiInstances() ? value.getInstances().toString() : String.valueOf(value.getValue());
            event("written", "path", path(resource), "value", text, "code", response.getCode().toString());
            return response;
        }

        @Override
        public ExecuteResponse execute(LwM2mServer server, int resource, Arguments arguments) {
            event("executed", "path", path(resource), "arguments", arguments.serialize());
            return ExecuteResponse.success();
        }

        @Override
        public synchronized ObserveResponse observe(LwM2mServer server, int resource) {
            event("observed", "path", path(resource));
            return super.observe(server, resource);
        }

        @Override
        public void onDelete(LwM2mServer server) {
            INSTANCES.remove("/" + object + "/" + getId());
            event("deleted", "path", "/" + object + "/" + getId());
        }

        void set(int resource, String value) {
            LwM2mResource made = object == 3303 && resource != 5701 && resource != 5750
                    ? LwM2mSingleResource.newFloatResource(resource, Double.parseDouble(value))
                    : LwM2mSingleResource.newStringResource(resource, value);
            resources.put(resource, made);
            fireResourceChange(resource);
        }
    }

    /** The Server object with what Leshan's own leaves out: Disable (4) and its timeout (5). */
    public static final class Serving extends Server {
        private static final int DISABLE = 4;
        private static final int DISABLE_TIMEOUT = 5;
        private static Runnable leave;
        private long timeout = 86400;

        /** As a bootstrap server makes one. */
        public Serving() {
        }

        Serving(long lifetime) {
            super(123, lifetime);
        }

        @Override
        public ReadResponse read(LwM2mServer server, int resource) {
            return resource == DISABLE_TIMEOUT ? ReadResponse.success(resource, timeout) : super.read(server, resource);
        }

        @Override
        public WriteResponse write(LwM2mServer server, boolean replace, int resource, LwM2mResource value) {
            if (resource != DISABLE_TIMEOUT) {
                return super.write(server, replace, resource, value);
            }
            timeout = (Long) value.getValue();
            return WriteResponse.success();
        }

        @Override
        public ExecuteResponse execute(LwM2mServer server, int resource, Arguments arguments) {
            if (resource != DISABLE) {
                return super.execute(server, resource, arguments);
            }
            // After the answer.
            new Timer(true).schedule(new TimerTask() {
                @Override
                public void run() {
                    leave.run();
                }
            }, 200);
            return ExecuteResponse.success();
        }

        @Override
        public List<Integer> getAvailableResourceIds(ObjectModel model) {
            List<Integer> ids = new ArrayList<>(super.getAvailableResourceIds(model));
            ids.add(DISABLE_TIMEOUT);
            Collections.sort(ids);
            return ids;
        }
    }

    /** Firmware Update: takes an image by its bytes or its URI, with Californium's own block-wise transfers. */
    public static final class Firmware extends SimpleInstanceEnabler {
        private long state = 0;
        private long result = 0;

        @Override
        public ReadResponse read(LwM2mServer server, int resource) {
            switch (resource) {
            case 1:
                return ReadResponse.success(resource, "");
            case 3:
                return ReadResponse.success(resource, state);
            case 5:
                return ReadResponse.success(resource, result);
            case 9:
                return ReadResponse.success(resource, 2L);
            default:
                return super.read(server, resource);
            }
        }

        @Override
        public WriteResponse write(LwM2mServer server, boolean replace, int resource, LwM2mResource value) {
            if (resource == 0) {
                has((byte[]) value.getValue());
            } else {
                String uri = (String) value.getValue();
                becomes(uri.isEmpty() ? 0 : 1, 0);
                if (!uri.isEmpty()) {
                    new Thread(() -> fetch(uri), "fetch").start();
                }
            }
            return WriteResponse.success();
        }

        @Override
        public ExecuteResponse execute(LwM2mServer server, int resource, Arguments arguments) {
            event("executed", "path", "/5/0/" + resource, "arguments", "");
            becomes(3, 0);
            becomes(0, 1);
            return ExecuteResponse.success();
        }

        private void fetch(String uri) {
            try {
                CoapConfig.register();
                Configuration configuration = new Configuration();
                configuration.set(CoapConfig.MAX_RESOURCE_BODY_SIZE, 1 << 20);
                CoapClient client = new CoapClient(uri);
                client.setEndpoint(CoapEndpoint.builder().setConfiguration(configuration).build());
                client.setTimeout(60000L);
                CoapResponse response = client.get();
                if (response == null || !response.isSuccess()) {
                    event("not fetched", "code", response == null ? "none" : response.getCode().toString());
                    becomes(0, 4);
                } else {
                    has(response.getPayload());
                }
            } catch (Exception error) {
                event("error", "message", String.valueOf(error));
                becomes(0, 7);
            }
        }

        private void has(byte[] image) {
            try {
                byte[] digest = MessageDigest.getInstance("SHA-256").digest(image);
                event("image", "sha256", String.format("%064x", new BigInteger(1, digest)));
            } catch (NoSuchAlgorithmException error) {
                throw new IllegalStateException(error);
            }
            becomes(2, 0);
        }

        private void becomes(long state, long result) {
            this.state = state;
            this.result = result;
            fireResourceChange(3);
            fireResourceChange(5);
        }
    }

    private static synchronized void event(String name, String... pairs) {
        StringBuilder line = new StringBuilder("{\"event\": ").append(quote(name));
        for (int i = 0; i < pairs.length; i += 2) {
            line.append(", ").append(quote(pairs[i])).append(": ").append(quote(pairs[i + 1]));
        }
        System.out.println(line.append('}'));
        System.out.flush();
    }

    private static String quote(String text) {
        StringBuilder quoted = new StringBuilder("\"");
        for (char c : String.valueOf(text).toCharArray()) {
            if (c == '"' || c == '\\') {
                quoted.append('\\').append(c);
            } else if (c < ' ' || c > '~') {
                quoted.append(String.format("\\u%04x", (int) c));
            } else {
                quoted.append(c);
            }
        }
        return quoted.append('"').toString();
    }

    private static Map<Integer, Object> temperature(double value) {
        Map<Integer, Object> values = new HashMap<>();
        values.put(5601, value);
        values.put(5602, value);
        values.put(5700, value);
        values.put(5701, "Cel");
        values.put(5750, "room");
        return values;
    }

    private static boolean isBootstrap(String[] args) {
        return args[3].equals("bootstrap");
    }

    private static Security security(String[] args) {
        if (isBootstrap(args)) {
            switch (args.length) {
            case 4:
                return Security.noSecBootstrap(args[1]);
            case 6:
                return Security.pskBootstrap(args[1], args[4].getBytes(StandardCharsets.UTF_8), bytes(args[5]));
            default:
                return Security.x509Bootstrap(args[1], bytes(args[4]), bytes(args[5]), bytes(args[6]));
            }
        }
        switch (args.length) {
        case 4:
            return Security.noSec(args[1], 123);
        case 6:
            return Security.psk(args[1], 123, args[4].getBytes(StandardCharsets.UTF_8), bytes(args[5]));
        default:
            return Security.x509(args[1], 123, bytes(args[4]), bytes(args[5]), bytes(args[6]));
        }
    }

    private static byte[] bytes(String hex) {
        return Hex.decodeHex(hex.toCharArray());
    }

    public static void main(String[] args) throws Exception {
        List<ObjectModel> models = new ArrayList<>(ObjectLoader.loadDefault());
        models.addAll(ObjectLoader.loadDdfFile(
                new ByteArrayInputStream(TEMPERATURE.getBytes(StandardCharsets.UTF_8)), "3303.xml"));

        models.addAll(ObjectLoader.loadDdfFile(
                new ByteArrayInputStream(PORTFOLIO.getBytes(StandardCharsets.UTF_8)), "16.xml"));

        Map<Integer, Object> device = new HashMap<>();
        device.put(0, "Eclipse Leshan");
        device.put(1, "model");
        device.put(2, "serial");
        device.put(3, "2.0.0-M18");
        device.put(14, "+01");
        device.put(16, "U");
        Map<Integer, Long> sources = new HashMap<>();
        sources.put(0, 1L);
        sources.put(1, 5L);
        device.put(6, sources);
        device.put(7, Map.of(0, 3800L, 1, 5000L));
        device.put(8, Map.of(0, 125L, 1, 900L));
        device.put(11, Map.of(0, 0L));

        ObjectsInitializer objects = new ObjectsInitializer(new StaticModel(models));
        objects.setInstancesForObject(0, security(args));
        if (isBootstrap(args)) {
            objects.setClassForObject(1, Serving.class);
        } else {
            objects.setInstancesForObject(1, new Serving(Long.parseLong(args[2])));
        }
        objects.setFactoryForObject(3, (model, id, taken) -> new Watched(3, 0, device));
        objects.setInstancesForObject(3, new Watched(3, 0, device));
        objects.setFactoryForObject(3303, (model, id, taken) -> {
            int free = 0;
            while (taken.contains(free)) {
                free++;
            }
            Watched made = new Watched(3303, id == null ? free : id, temperature(20));
            made.setModel(model);
            return made;
        });
        objects.setInstancesForObject(3303, new Watched(3303, 0, temperature(20)), new Watched(3303, 1, temperature(30)));

        Map<Integer, Object> portfolio = new HashMap<>();
        portfolio.put(0, new HashMap<>(Map.of(0, "aa", 1, "bb")));
        objects.setFactoryForObject(16, (model, id, taken) -> new Watched(16, id == null ? 1 : id, portfolio));
        objects.setInstancesForObject(16, new Watched(16, 0, portfolio));

        objects.setInstancesForObject(5, new Firmware());

        DefaultRegistrationEngineFactory engine = new DefaultRegistrationEngineFactory();
        engine.setQueueMode(Boolean.parseBoolean(args[3]));
        engine.setPreferredContentFormat(ContentFormat.SENML_CBOR);
        engine.setRetryWaitingTimeInMs(1000);

        LeshanClientBuilder builder = new LeshanClientBuilder(args[0]);
        builder.setObjects(objects.create(0, 1, 3, 5, 16, 3303));
        builder.setRegistrationEngineFactory(engine);
        builder.setEndpointsProviders(new CaliforniumClientEndpointsProvider.Builder(
                new CoapClientProtocolProvider(), new CoapsClientProtocolProvider())
                .setClientAddress(InetAddress.getLoopbackAddress()).build());
        builder.setDataSenders(new ManualDataSender());
        LeshanClient client = builder.build();
        client.addObserver(new LwM2mClientObserverAdapter() {
            @Override
            public void onBootstrapSuccess(LwM2mServer server, BootstrapRequest request) {
                event("bootstrapped");
            }

            @Override
            public void onBootstrapFailure(LwM2mServer server, BootstrapRequest request, ResponseCode code,
                    String message, Exception cause) {
                event("not bootstrapped", "code", String.valueOf(code), "message", String.valueOf(message));
            }

            @Override
            public void onBootstrapTimeout(LwM2mServer server, BootstrapRequest request) {
                event("bootstrap timeout");
            }

            @Override
            public void onRegistrationSuccess(LwM2mServer server, RegisterRequest request, String id) {
                event("registered", "id", id);
            }

            @Override
            public void onRegistrationFailure(LwM2mServer server, RegisterRequest request, ResponseCode code,
                    String message, Exception cause) {
                event("refused", "code", String.valueOf(code), "message", String.valueOf(message));
            }

            @Override
            public void onRegistrationTimeout(LwM2mServer server, RegisterRequest request) {
                event("timeout");
            }

            @Override
            public void onUpdateSuccess(LwM2mServer server, UpdateRequest request) {
                event("updated");
            }

            @Override
            public void onDeregistrationSuccess(LwM2mServer server, DeregisterRequest request) {
                event("deregistered");
            }

            @Override
            public void onUnexpectedError(Throwable error) {
                event("error", "message", String.valueOf(error));
            }
        });
        Serving.leave = () -> client.stop(true);
        client.start();

        BufferedReader commands = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = commands.readLine(); line != null; line = commands.readLine()) {
            String[] words = line.split(" ", 3);
            if (words[0].equals("set")) {
                String[] ids = words[1].split("/");
                INSTANCES.get("/" + ids[1] + "/" + ids[2]).set(Integer.parseInt(ids[3]), words[2]);
                event("set", "path", words[1]);
            } else if (words[0].equals("send")) {
                LwM2mServer server = client.getRegisteredServers().values().iterator().next();
                event("sent", "code", client.getSendService().sendData(server, ContentFormat.fromName(words[1]),
                        List.of(words[2].split(" ")), 20000).getCode().toString());
            } else if (words[0].equals("collect")) {
                client.getSendService().getDataSender(ManualDataSender.DEFAULT_NAME, ManualDataSender.class)
                        .collectData(List.of(new LwM2mPath(words[1])));
                event("collected", "path", words[1]);
            } else if (words[0].equals("flush")) {
                LwM2mServer server = client.getRegisteredServers().values().iterator().next();
                client.getSendService().getDataSender(ManualDataSender.DEFAULT_NAME, ManualDataSender.class)
                        .sendCollectedData(server, ContentFormat.fromName(words[1]), 20000, false);
            } else if (words[0].equals("update")) {
                client.triggerRegistrationUpdate();
            } else if (words[0].equals("deregister")) {
                client.stop(true);
            } else if (words[0].equals("quit")) {
                break;
            }
        }
        client.destroy(false);
        System.exit(0);
    }
}
