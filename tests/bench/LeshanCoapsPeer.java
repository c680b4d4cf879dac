import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.Properties;

import org.apache.avro.io.BinaryEncoder;
import org.apache.avro.io.EncoderFactory;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.eclipse.californium.core.config.CoapConfig;
import org.eclipse.californium.elements.config.Configuration;
import org.eclipse.californium.elements.config.UdpConfig;
import org.eclipse.californium.scandium.config.DtlsConfig;
import org.eclipse.leshan.core.endpoint.Protocol;
import org.eclipse.leshan.core.model.ObjectLoader;
import org.eclipse.leshan.core.model.ObjectModel;
import org.eclipse.leshan.core.model.ResourceModel;
import org.eclipse.leshan.core.node.LwM2mResource;
import org.eclipse.leshan.core.observation.CompositeObservation;
import org.eclipse.leshan.core.observation.Observation;
import org.eclipse.leshan.core.observation.SingleObservation;
import org.eclipse.leshan.core.request.ObserveRequest;
import org.eclipse.leshan.core.response.ObserveCompositeResponse;
import org.eclipse.leshan.core.response.ObserveResponse;
import org.eclipse.leshan.core.util.Hex;
import org.eclipse.leshan.server.LeshanServer;
import org.eclipse.leshan.server.LeshanServerBuilder;
import org.eclipse.leshan.server.model.VersionedModelProvider;
import org.eclipse.leshan.server.observation.ObservationListener;
import org.eclipse.leshan.server.registration.Registration;
import org.eclipse.leshan.server.registration.RegistrationListener;
import org.eclipse.leshan.server.registration.RegistrationUpdate;
import org.eclipse.leshan.servers.security.InMemorySecurityStore;
import org.eclipse.leshan.servers.security.NonUniqueSecurityInfoException;
import org.eclipse.leshan.servers.security.SecurityInfo;
import org.eclipse.leshan.transport.californium.server.endpoint.CaliforniumServerEndpointsProvider;
import org.eclipse.leshan.transport.californium.server.endpoint.coaps.CoapsServerProtocolProvider;

/**
 * The peer over DTLS: a Leshan server with pre-shared keys that observes whoever registers and forwards each
 * notification to Kafka as an Avro record of the same fields as the yardstick's peer has; that one speaks CoAP in the
 * clear only. An acknowledgement does not wait for Kafka.
 *
 * Arguments: port, Kafka's bootstrap, topic, path to observe, and a file with an identity (that is the endpoint name as
 * well) and a key in hex a line. What else is set is what "tuned" means: at most 64 exchanges a client are kept, and
 * the receive buffer has 4 MiB. The rest is Leshan's default, Connection IDs of six bytes too.
 */
public final class LeshanCoapsPeer implements RegistrationListener, ObservationListener {

    private static final int RECEIVE_BUFFER = 4 << 20;

    private final String topic;
    private final String path;
    private final LeshanServer server;
    private final KafkaProducer<byte[], byte[]> producer;

    public static void main(String[] arguments) throws Exception {
        System.setProperty("org.slf4j.simpleLogger.defaultLogLevel", "warn");
        new LeshanCoapsPeer(arguments).start();
    }

    private LeshanCoapsPeer(String[] arguments) throws IOException, NonUniqueSecurityInfoException {
        int port = Integer.parseInt(arguments[0]);
        topic = arguments[2];
        path = arguments[3];
        InMemorySecurityStore store = new InMemorySecurityStore();
        for (String line : Files.readAllLines(Path.of(arguments[4]))) {
            String[] one = line.split(" ");
            store.add(SecurityInfo.newPreSharedKeyInfo(one[0], one[0], Hex.decodeHex(one[1].toCharArray())));
        }

        Properties settings = new Properties();
        settings.put("bootstrap.servers", arguments[1]);
        settings.put("key.serializer", ByteArraySerializer.class.getName());
        settings.put("value.serializer", ByteArraySerializer.class.getName());
        producer = new KafkaProducer<>(settings); // the defaults of 4.1: acks=all, idempotent, linger.ms=5

        CaliforniumServerEndpointsProvider.Builder endpoints = new CaliforniumServerEndpointsProvider.Builder(
                new CoapsServerProtocolProvider());
        Configuration coap = endpoints.createDefaultConfiguration();
        coap.set(CoapConfig.DEDUPLICATOR, CoapConfig.DEDUPLICATOR_PEERS_MARK_AND_SWEEP);
        coap.set(UdpConfig.UDP_RECEIVE_BUFFER_SIZE, RECEIVE_BUFFER);
        coap.set(DtlsConfig.DTLS_RECEIVE_BUFFER_SIZE, RECEIVE_BUFFER);
        endpoints.setConfiguration(coap);
        endpoints.addEndpoint(new InetSocketAddress("127.0.0.1", port), Protocol.COAPS);

        List<ObjectModel> models = new ArrayList<>(ObjectLoader.loadAllDefault());
        models.add(new ObjectModel(3303, "Temperature", "", "1.0", true, false, new ResourceModel(5700, "Sensor Value",
                ResourceModel.Operations.R, false, true, ResourceModel.Type.FLOAT, "", "", "")));
        LeshanServerBuilder builder = new LeshanServerBuilder();
        builder.setObjectModelProvider(new VersionedModelProvider(models));
        builder.setSecurityStore(store);
        builder.setEndpointsProviders(endpoints.build());
        server = builder.build();
        server.getRegistrationService().addListener(this);
        server.getObservationService().addListener(this);
    }

    private void start() {
        server.start();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            server.destroy();
            producer.close(Duration.ofSeconds(5));
        }));
        System.out.println("ready");
    }

    @Override
    public void registered(Registration one, Registration previous, Collection<Observation> previousObservations) {
        server.send(one, new ObserveRequest(null, path), response -> {
        }, error -> System.err.println("observe " + one.getEndpoint() + ": " + error));
    }

    @Override
    public void updated(RegistrationUpdate update, Registration one, Registration previous) {
    }

    @Override
    public void unregistered(Registration one, Collection<Observation> all, boolean expired, Registration next) {
    }

    @Override
    public void onResponse(SingleObservation observation, Registration one, ObserveResponse response) {
        try {
            LwM2mResource resource = (LwM2mResource) response.getContent();
            Buffers buffers = BUFFERS.get();
            buffers.out.reset();
            BinaryEncoder to = EncoderFactory.get().directBinaryEncoder(buffers.out, buffers.encoder);
            buffers.encoder = to;
            to.writeString("bench");
            to.writeLong(System.currentTimeMillis());
            to.writeString("unset");
            to.writeString(observation.getId().getAsHexString());
            to.writeString(one.getEndpoint());
            to.writeString(observation.getPath().toString());
            to.writeInt(response.getCode().getCode());
            to.writeIndex(0); // no error
            to.writeArrayStart();
            to.setItemCount(1);
            to.startItem();
            to.writeString(observation.getPath().toString());
            to.writeString(resource.getType().name());
            to.writeIndex(1); // of string, double, long, boolean, bytes
            to.writeDouble((Double) resource.getValue());
            to.writeArrayEnd();
            to.flush();
            byte[] key = one.getEndpoint().getBytes(StandardCharsets.UTF_8);
            producer.send(new ProducerRecord<>(topic, key, buffers.out.toByteArray()), (metadata, error) -> {
                if (error != null)
                    System.err.println("Kafka: " + error);
            });
        } catch (IOException | RuntimeException error) {
            System.err.println("notification of " + one.getEndpoint() + ": " + error);
        }
    }

    @Override
    public void onResponse(CompositeObservation observation, Registration one, ObserveCompositeResponse response) {
    }

    @Override
    public void onError(Observation observation, Registration one, Exception error) {
        System.err.println("notification of " + one.getEndpoint() + ": " + error);
    }

    @Override
    public void newObservation(Observation observation, Registration one) {
    }

    @Override
    public void cancelled(Observation observation) {
    }

    private static final class Buffers {
        final ByteArrayOutputStream out = new ByteArrayOutputStream(256);
        BinaryEncoder encoder;
    }

    private static final ThreadLocal<Buffers> BUFFERS = ThreadLocal.withInitial(Buffers::new);
}
