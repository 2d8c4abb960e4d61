import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.stream.Stream;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.framework.recipes.locks.InterProcessLock;
import org.apache.curator.framework.recipes.locks.InterProcessMutex;
import org.apache.curator.framework.recipes.locks.InterProcessReadWriteLock;
import org.apache.curator.framework.recipes.locks.InterProcessSemaphoreV2;
import org.apache.curator.framework.recipes.locks.Lease;
import org.apache.curator.retry.RetryOneTime;

/**
 * Measures Curator's InterProcessMutex, InterProcessReadWriteLock and InterProcessSemaphoreV2, with a
 * client for each waiter.
 *
 * <p>Arguments: the server's address and the session timeout in milliseconds. A line on standard
 * input is {@code start SECONDS WAITERS LOCK [LOAD PERMITS]}, with {@code readers}, {@code mixed} or
 * {@code permits} for LOAD; the answer is one line of JSON with all durations in nanoseconds.
 */
public final class CuratorLocks {
    /** A permit of a semaphore, with the methods of a lock. */
    private static final class Permit implements AnyLock {
        final InterProcessSemaphoreV2 semaphore;
        Lease lease;

        Permit(InterProcessSemaphoreV2 semaphore) {
            this.semaphore = semaphore;
        }

        @Override
        public void acquire() throws Exception {
            lease = semaphore.acquire();
        }

        @Override
        public void release() {
            semaphore.returnLease(lease);
        }
    }

    private interface AnyLock {
        void acquire() throws Exception;

        void release() throws Exception;

        static AnyLock of(InterProcessLock lock) {
            return new AnyLock() {
                @Override
                public void acquire() throws Exception {
                    lock.acquire();
                }

                @Override
                public void release() throws Exception {
                    lock.release();
                }
            };
        }
    }

    /** The lock of a waiter with this number; in a mixed load every twentieth writes. */
    private static AnyLock lock(CuratorFramework client, int number, String[] words) {
        String path = "/curator/" + words[3];
        String load = words.length > 4 ? words[4] : "";
        switch (load) {
            case "permits":
                return new Permit(
                        new InterProcessSemaphoreV2(client, path, Integer.parseInt(words[5])));
            case "readers":
            case "mixed":
                InterProcessReadWriteLock both = new InterProcessReadWriteLock(client, path);
                boolean writes = load.equals("mixed") && number % 20 == 0 && number > 0;
                return AnyLock.of(writes ? both.writeLock() : both.readLock());
            default:
                return AnyLock.of(new InterProcessMutex(client, path));
        }
    }

    /** One waiter, with its own client, its own lock object, and its measurements. */
    private static final class Waiter {
        final AnyLock lock;
        final List<Long> acquires = new ArrayList<>();
        final List<Long> releases = new ArrayList<>();

        Waiter(AnyLock lock) {
            this.lock = lock;
        }

        /** Acquires and releases the lock until `end`, at least once. */
        void run(int number, long end, Window window) throws Exception {
            acquires.clear();
            releases.clear();
            do {
                long asked = System.nanoTime();
                lock.acquire();
                long got = System.nanoTime();
                window.granted(number, got);
                lock.release();
                acquires.add(got - asked);
                releases.add(System.nanoTime() - got);
            } while (System.nanoTime() < end);
        }
    }

    /** The grants of all waiters. */
    private static final class Window {
        private final List<Long> handOvers = new ArrayList<>();
        private int holder = -1;
        private long since;

        /**
         * A waiter that acquires the lock twice in a row hands it over to no other waiter. Waiters that share
         * a lock may report their grants in another order than they had them.
         */
        synchronized void granted(int number, long got) {
            if (holder >= 0 && holder != number) {
                handOvers.add(Math.max(0, got - since));
            }
            holder = number;
            since = got;
        }
    }

    private static CuratorFramework connect(String address, int timeout) throws Exception {
        CuratorFramework client =
                CuratorFrameworkFactory.newClient(address, timeout, 20000, new RetryOneTime(100));
        client.start();
        client.blockUntilConnected();
        return client;
    }

    /** Lets all waiters acquire the lock for `span` nanoseconds; returns the duration. */
    private static long measure(List<Waiter> waiters, long span, Window window) throws Exception {
        CountDownLatch begin = new CountDownLatch(1);
        List<Thread> threads = new ArrayList<>();
        long[] end = new long[1];
        for (int number = 0; number < waiters.size(); number++) {
            int own = number;
            Thread thread = new Thread(() -> {
                try {
                    begin.await();
                    waiters.get(own).run(own, end[0], window);
                } catch (Exception error) {
                    error.printStackTrace();
                    System.exit(1);
                }
            });
            thread.start();
            threads.add(thread);
        }
        long start = System.nanoTime();
        end[0] = start + span;
        begin.countDown();
        for (Thread thread : threads) {
            thread.join();
        }
        return System.nanoTime() - start;
    }

    /** The manifests of Debian's archives contain no version; the name of a link beside them does. */
    private static String version() throws Exception {
        Path archive = Path.of(CuratorFramework.class.getProtectionDomain().getCodeSource()
                .getLocation().toURI());
        try (Stream<Path> files = Files.list(archive.getParent())) {
            return files.map(file -> file.getFileName().toString())
                    .filter(name -> name.matches("curator-framework-[0-9.]+\\.jar"))
                    .map(name -> name.replaceAll("curator-framework-|\\.jar", ""))
                    .findFirst()
                    .orElse("of unknown version");
        }
    }

    public static void main(String[] args) throws Exception {
        int timeout = Integer.parseInt(args[1]);
        List<CuratorFramework> clients = new ArrayList<>();
        System.out.println("ready Curator " + version() + ", Java "
                + System.getProperty("java.version"));
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] words = line.trim().split(" ");
            long span = (long) (Double.parseDouble(words[1]) * 1e9);
            int count = Integer.parseInt(words[2]);
            while (clients.size() < count) {
                clients.add(connect(args[0], timeout));
            }
            List<Waiter> waiters = new ArrayList<>();
            for (int number = 0; number < count; number++) {
                waiters.add(new Waiter(lock(clients.get(number), number, words)));
            }
            // The first pair of each waiter is not counted: it creates the nodes above the lock.
            measure(waiters, 0, new Window());
            Window window = new Window();
            long took = measure(waiters, span, window);
            List<Long> acquires = new ArrayList<>();
            List<Long> releases = new ArrayList<>();
            for (Waiter waiter : waiters) {
                acquires.addAll(waiter.acquires);
                releases.addAll(waiter.releases);
            }
            System.out.println("{\"took\":" + took + ",\"hand_overs\":" + window.handOvers
                    + ",\"acquires\":" + acquires + ",\"releases\":" + releases + "}");
        }
        for (CuratorFramework client : clients) {
            client.close();
        }
        System.exit(0);
    }
}
