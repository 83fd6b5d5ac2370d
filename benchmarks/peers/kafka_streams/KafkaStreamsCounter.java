import com.fasterxml.jackson.annotation.JsonIgnoreProperties;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.ObjectReader;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.Repartitioned;
import org.apache.kafka.streams.processor.api.FixedKeyProcessor;
import org.apache.kafka.streams.processor.api.FixedKeyProcessorContext;
import org.apache.kafka.streams.processor.api.FixedKeyProcessorSupplier;
import org.apache.kafka.streams.processor.api.FixedKeyRecord;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.StoreBuilder;
import org.apache.kafka.streams.state.Stores;

/**
 * The projector's work in Kafka Streams: ad events in, totals by campaign and KPI out, exactly_once_v2.
 *
 * <p>One repartitioning, by campaign and KPI, serves both the deduplication and the count. Arguments: bootstrap servers,
 * input topic, output topic, application id, tag table, state directory, session timeout in ms, threads,
 * "deduplicate" or "plain".
 */
public final class KafkaStreamsCounter {
    private static final Set<String> KINDS = Set.of("impression", "click", "visit", "conversion");
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final ObjectReader EVENTS = JSON.readerFor(Event.class);

    @JsonIgnoreProperties(ignoreUnknown = true)
    record Bin(String name, JsonNode value) {}

    @JsonIgnoreProperties(ignoreUnknown = true)
    record Event(String msg, List<Bin> bins) {
        JsonNode bin(String name) {
            for (Bin bin : bins) {
                if (bin.name().equals(name)) {
                    return bin.value();
                }
            }
            return null;
        }
    }

    record Total(int campaignId, String kpi, long value) {}

    public static void main(String[] arguments) throws IOException {
        Properties settings = new Properties();
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, arguments[0]);
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, arguments[3]);
        settings.put(StreamsConfig.STATE_DIR_CONFIG, arguments[5]);
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.SESSION_TIMEOUT_MS_CONFIG), arguments[6]);
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, arguments[7]);
        Topology topology = topology(arguments[1], arguments[2], tags(arguments[4]), arguments[8].equals("deduplicate"));
        KafkaStreams streams = new KafkaStreams(topology, settings);
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        streams.setStateListener((now, before) -> {
            if (now == KafkaStreams.State.ERROR) {
                Runtime.getRuntime().halt(1);
            }
        });
        Runtime.getRuntime().addShutdownHook(new Thread(streams::close));
        streams.start();
    }

    private static Topology topology(String input, String output, Map<String, Integer> campaigns, boolean deduplicate) {
        StreamsBuilder builder = new StreamsBuilder();
        KStream<String, String> events = builder
            .stream(input, Consumed.with(Serdes.ByteArray(), Serdes.ByteArray()))
            .flatMap((key, value) -> named(value, campaigns, deduplicate))
            .repartition(Repartitioned.with(Serdes.String(), Serdes.String()).withName("by-campaign"));
        if (deduplicate) {
            events = events.processValues(new Deduplication());
        }
        events
            .groupByKey(Grouped.with(Serdes.String(), Serdes.String()))
            .count(Materialized.as("counts"))
            .toStream()
            .mapValues(KafkaStreamsCounter::total)
            .to(output, Produced.with(Serdes.String(), Serdes.ByteArray()));
        return builder.build();
    }

    /** "41:impressions" and the event id (empty where it is not needed); nothing for what is no event. */
    private static List<KeyValue<String, String>> named(byte[] value, Map<String, Integer> campaigns, boolean withId) {
        Event event;
        try {
            event = value == null ? null : EVENTS.readValue(value);
        } catch (IOException error) {
            return List.of();
        }
        if (event == null || event.bins() == null) {
            return List.of();
        }
        JsonNode data = event.bin("event-data");
        JsonNode id = event.bin("event-id");
        if (data == null || id == null) {
            return List.of();
        }
        String kind = data.path("event").asText();
        Integer campaign = campaigns.get(data.path("tag").asText());
        if (campaign == null || !KINDS.contains(kind)) {
            return List.of();
        }
        return List.of(KeyValue.pair(campaign + ":" + kind + "s", withId ? id.asText() : ""));
    }

    private static byte[] total(String key, long count) {
        int colon = key.indexOf(':');
        try {
            return JSON.writeValueAsBytes(
                new Total(Integer.parseInt(key.substring(0, colon)), key.substring(colon + 1), count));
        } catch (IOException error) {
            throw new IllegalStateException(error);
        }
    }

    /** The table: a tag, a blank and its campaign a line. */
    private static Map<String, Integer> tags(String file) throws IOException {
        Map<String, Integer> campaigns = new HashMap<>();
        for (String line : Files.readAllLines(Path.of(file))) {
            int blank = line.indexOf(' ');
            campaigns.put(line.substring(0, blank), Integer.valueOf(line.substring(blank + 1)));
        }
        return campaigns;
    }

    /** Lets the first record of each campaign, KPI and event id pass; the ids are in a RocksDB store, for ever. */
    private static final class Deduplication implements FixedKeyProcessorSupplier<String, String, String> {
        private static final byte[] THERE = {1};

        @Override
        public FixedKeyProcessor<String, String, String> get() {
            return new FixedKeyProcessor<>() {
                private FixedKeyProcessorContext<String, String> context;
                private KeyValueStore<String, byte[]> seen;

                @Override
                public void init(FixedKeyProcessorContext<String, String> given) {
                    context = given;
                    seen = given.getStateStore("seen");
                }

                @Override
                public void process(FixedKeyRecord<String, String> event) {
                    if (seen.putIfAbsent(event.key() + "/" + event.value(), THERE) == null) {
                        context.forward(event);
                    }
                }
            };
        }

        @Override
        public Set<StoreBuilder<?>> stores() {
            Serde<byte[]> there = Serdes.ByteArray();
            return Set.of(
                Stores.keyValueStoreBuilder(Stores.persistentKeyValueStore("seen"), Serdes.String(), there));
        }
    }
}
