import java.io.BufferedReader;
import java.io.InputStreamReader;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.framework.recipes.locks.InterProcessMutex;
import org.apache.curator.framework.recipes.locks.InterProcessReadWriteLock;
import org.apache.curator.retry.RetryOneTime;

/** Takes a lock with Curator's recipes as it is told on its standard input: acquire, read, write, release. */
public final class Contender {
    public static void main(String[] args) throws Exception {
        CuratorFramework client =
                CuratorFrameworkFactory.newClient(args[0], 2000, 20000, new RetryOneTime(100));
        client.start();
        client.blockUntilConnected();
        InterProcessMutex mutex = new InterProcessMutex(client, args[1]);
        InterProcessReadWriteLock both = new InterProcessReadWriteLock(client, args[1]);
        InterProcessMutex held = mutex;
        System.out.println("ready");
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String order = line.trim();
            if (order.equals("release")) {
                held.release();
                System.out.println("released");
                continue;
            }
            held = order.equals("read") ? both.readLock()
                    : order.equals("write") ? both.writeLock() : mutex;
            held.acquire();
            System.out.println("held");
        }
        client.close();
    }
}
