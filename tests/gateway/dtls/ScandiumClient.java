import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.HexFormat;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.eclipse.californium.elements.AddressEndpointContext;
import org.eclipse.californium.elements.EndpointContext;
import org.eclipse.californium.elements.MessageCallback;
import org.eclipse.californium.elements.RawData;
import org.eclipse.californium.elements.config.Configuration;
import org.eclipse.californium.scandium.DTLSConnector;
import org.eclipse.californium.scandium.config.DtlsConfig;
import org.eclipse.californium.scandium.config.DtlsConnectorConfig;
import org.eclipse.californium.scandium.dtls.pskstore.SinglePskStore;

/**
 * Scandium, the DTLS of Leshan's devices: PORT IDENTITY KEY-HEX CID-LENGTH (negative: none is negotiated). It sends each
 * line of its input, one that begins with "resumed" after an abbreviated handshake, and prints the answer or the failure.
 */
public final class ScandiumClient {
    private static final BlockingQueue<String> HEARD = new LinkedBlockingQueue<>();

    public static void main(String[] arguments) throws Exception {
        DtlsConfig.register();
        InetSocketAddress server =
                new InetSocketAddress(InetAddress.getByName("127.0.0.1"), Integer.parseInt(arguments[0]));
        int cid = Integer.parseInt(arguments[3]);
        Configuration configuration = new Configuration();
        configuration.set(DtlsConfig.DTLS_ROLE, DtlsConfig.DtlsRole.CLIENT_ONLY);
        configuration.setAsListFromText(DtlsConfig.DTLS_CIPHER_SUITES, "TLS_PSK_WITH_AES_128_CCM_8");
        configuration.set(DtlsConfig.DTLS_RETRANSMISSION_TIMEOUT, 1, TimeUnit.SECONDS);
        if (cid >= 0) {
            configuration.set(DtlsConfig.DTLS_CONNECTION_ID_LENGTH, cid);
        }
        DtlsConnectorConfig.Builder builder = DtlsConnectorConfig.builder(configuration);
        builder.setAddress(new InetSocketAddress(InetAddress.getByName("127.0.0.1"), 0));
        builder.setPskStore(new SinglePskStore(arguments[1], HexFormat.of().parseHex(arguments[2])));
        DTLSConnector connector = new DTLSConnector(builder.build());
        connector.setRawDataReceiver(data -> HEARD.add(new String(data.getBytes(), StandardCharsets.UTF_8)));
        connector.start();
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            if (line.startsWith("resumed")) {
                connector.forceResumeSessionFor(server);
            }
            say(connector, server, line);
        }
        connector.destroy();
        System.exit(0);
    }

    private static void say(DTLSConnector connector, InetSocketAddress server, String what) throws Exception {
        MessageCallback failure =
                new MessageCallback() {
                    @Override
                    public void onConnecting() {}

                    @Override
                    public void onDtlsRetransmission(int flight) {}

                    @Override
                    public void onContextEstablished(EndpointContext context) {}

                    @Override
                    public void onSent() {}

                    @Override
                    public void onError(Throwable error) {
                        HEARD.add("failed: " + error.getMessage());
                    }
                };
        connector.send(
                RawData.outbound(
                        what.getBytes(StandardCharsets.UTF_8), new AddressEndpointContext(server), failure, false));
        System.out.println(HEARD.poll(20, TimeUnit.SECONDS));
    }
}
