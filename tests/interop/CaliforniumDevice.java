import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;

import org.eclipse.californium.core.CoapResource;
import org.eclipse.californium.core.CoapServer;
import org.eclipse.californium.core.coap.CoAP;
import org.eclipse.californium.core.coap.Request;
import org.eclipse.californium.core.coap.Response;
import org.eclipse.californium.core.config.CoapConfig;
import org.eclipse.californium.core.network.CoapEndpoint;
import org.eclipse.californium.core.server.resources.CoapExchange;
import org.eclipse.californium.cose.AlgorithmID;
import org.eclipse.californium.elements.config.Configuration;
import org.eclipse.californium.elements.config.UdpConfig;
import org.eclipse.californium.oscore.ContextRederivation;
import org.eclipse.californium.oscore.HashMapCtxDB;
import org.eclipse.californium.oscore.OSCoreCoapStackFactory;
import org.eclipse.californium.oscore.OSCoreCtx;

/**
 * A device of one temperature (/3303/0/5700) and one text (/3/0/14) on Eclipse Californium, all of it in OSCORE.
 *
 * Arguments: endpoint name, server URI, in hex the master secret, its sender id and its recipient id, and true if it has
 * its keys derived anew (RFC 8613 appendix B.2). It registers at once. Commands come on standard input: "set VALUE",
 * "update"; each event is a line on standard output.
 */
public final class CaliforniumDevice {

    private static String server;
    private static CoapEndpoint endpoint;

    private static byte[] bytes(String hex) {
        byte[] made = new byte[hex.length() / 2];
        for (int i = 0; i < made.length; i++) {
            made[i] = (byte) Integer.parseInt(hex.substring(2 * i, 2 * i + 2), 16);
        }
        return made;
    }

    private static synchronized void event(String words) {
        System.out.println(words);
        System.out.flush();
    }

    private static final class Value extends CoapResource {
        private volatile String value;

        Value(String name, String value) {
            super(name);
            this.value = value;
            setObservable(true);
            setObserveType(CoAP.Type.CON);
        }

        void set(String value) {
            this.value = value;
            changed();
        }

        @Override
        public void handleGET(CoapExchange exchange) {
            if (exchange.getRequestOptions().hasObserve()) {
                event("observed " + getName());
            }
            exchange.respond(CoAP.ResponseCode.CONTENT, value.getBytes(StandardCharsets.UTF_8), 0);
        }

        @Override
        public void handlePUT(CoapExchange exchange) {
            value = exchange.getRequestText();
            event("written " + value.length());
            exchange.respond(CoAP.ResponseCode.CHANGED);
        }
    }

    private static String ask(String path, String payload) throws Exception {
        Request request = Request.newPost();
        request.setURI(server + path);
        request.getOptions().setOscore(new byte[0]);
        if (!payload.isEmpty()) {
            request.getOptions().setContentFormat(40);
            request.setPayload(payload);
        }
        request.send(endpoint);
        Response response = request.waitForResponse(60000);
        event(path.split("[?/]")[1] + " " + (response == null ? "nothing" : response.getCode().text));
        return response == null ? "" : response.getOptions().getLocationPathString();
    }

    public static void main(String[] args) throws Exception {
        CoapConfig.register();
        UdpConfig.register();
        server = args[1];
        OSCoreCtx context = new OSCoreCtx(bytes(args[2]), true, AlgorithmID.AES_CCM_16_64_128, bytes(args[3]),
                bytes(args[4]), AlgorithmID.HKDF_HMAC_SHA_256, 32, null, null, 4096);
        if (Boolean.parseBoolean(args[5])) {
            context.setContextRederivationEnabled(true);
            context.setContextRederivationPhase(ContextRederivation.PHASE.CLIENT_INITIATE);
        }
        HashMapCtxDB contexts = new HashMapCtxDB();
        contexts.addContext(server, context);
        Configuration configuration = Configuration.createStandardWithoutFile();
        endpoint = CoapEndpoint.builder().setConfiguration(configuration)
                .setInetSocketAddress(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0))
                .setCustomCoapStackArgument(contexts).setCoapStackFactory(new OSCoreCoapStackFactory()).build();
        Value temperature = new Value("5700", "20.0");
        CoapServer devices = new CoapServer(configuration);
        devices.addEndpoint(endpoint);
        devices.add(new CoapResource("3303").add(new CoapResource("0").add(temperature)),
                new CoapResource("3").add(new CoapResource("0").add(new Value("14", "+01"))));
        devices.start();
        String location = ask("/rd?lwm2m=1.0&b=U&lt=300&ep=" + args[0], "</1/0>,</3/0>,</3303/0>");
        BufferedReader commands = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = commands.readLine(); line != null; line = commands.readLine()) {
            if (line.startsWith("set ")) {
                temperature.set(line.substring(4));
            } else if (line.equals("update")) {
                ask("/" + location, "");
            }
        }
        System.exit(0);
    }
}
