// Curator's recipes at a server: each says in one line what came of it. Times and ids are left out,
// so that two servers can be compared by what is printed.

import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.framework.recipes.atomic.DistributedAtomicLong;
import org.apache.curator.framework.recipes.barriers.DistributedDoubleBarrier;
import org.apache.curator.framework.recipes.cache.CuratorCache;
import org.apache.curator.framework.recipes.cache.CuratorCacheListener;
import org.apache.curator.framework.recipes.leader.LeaderLatch;
import org.apache.curator.framework.recipes.locks.InterProcessMutex;
import org.apache.curator.framework.recipes.locks.InterProcessReadWriteLock;
import org.apache.curator.framework.recipes.locks.InterProcessSemaphoreV2;
import org.apache.curator.framework.recipes.nodes.GroupMember;
import org.apache.curator.framework.recipes.nodes.PersistentNode;
import org.apache.curator.framework.recipes.queue.DistributedQueue;
import org.apache.curator.framework.recipes.queue.QueueBuilder;
import org.apache.curator.framework.recipes.queue.QueueConsumer;
import org.apache.curator.framework.recipes.queue.QueueSerializer;
import org.apache.curator.framework.recipes.shared.SharedCount;
import org.apache.curator.framework.state.ConnectionState;
import org.apache.curator.retry.ExponentialBackoffRetry;
import org.apache.zookeeper.CreateMode;

public class Recipes {
    static CuratorFramework client(String hosts) {
        CuratorFramework client =
            CuratorFrameworkFactory.newClient(hosts, 30000, 30000, new ExponentialBackoffRetry(100, 5));
        client.start();
        return client;
    }

    static void said(String recipe, Object what) {
        System.out.println(recipe + ": " + what);
    }

    public static void main(String[] args) throws Exception {
        try (CuratorFramework one = client(args[0]); CuratorFramework two = client(args[0])) {
            one.blockUntilConnected();
            two.blockUntilConnected();
            mutex(one, two);
            readWriteLock(one, two);
            semaphore(one, two);
            latch(one, two);
            counters(one, two);
            barrier(one, two);
            cache(one, two);
            members(one, two);
            queue(one, two);
            persistent(one, two);
            transaction(one);
        }
    }

    static void mutex(CuratorFramework one, CuratorFramework two) throws Exception {
        AtomicInteger inside = new AtomicInteger();
        AtomicInteger most = new AtomicInteger();
        List<Thread> threads = new ArrayList<>();
        for (CuratorFramework client : List.of(one, two, one, two)) {
            Thread thread = new Thread(() -> {
                InterProcessMutex lock = new InterProcessMutex(client, "/mutex");
                for (int n = 0; n < 10; n++) {
                    try {
                        lock.acquire();
                        most.accumulateAndGet(inside.incrementAndGet(), Math::max);
                        inside.decrementAndGet();
                        lock.release();
                    } catch (Exception e) {
                        throw new IllegalStateException(e);
                    }
                }
            });
            threads.add(thread);
            thread.start();
        }
        for (Thread thread : threads) {
            thread.join();
        }
        said("mutex", "at most " + most.get() + " inside, then " + one.getChildren().forPath("/mutex").size());
    }

    static void readWriteLock(CuratorFramework one, CuratorFramework two) throws Exception {
        InterProcessReadWriteLock first = new InterProcessReadWriteLock(one, "/rw");
        InterProcessReadWriteLock second = new InterProcessReadWriteLock(two, "/rw");
        first.readLock().acquire();
        boolean read = second.readLock().acquire(30, TimeUnit.SECONDS);
        second.readLock().release();
        boolean write = second.writeLock().acquire(200, TimeUnit.MILLISECONDS);
        first.readLock().release();
        boolean later = second.writeLock().acquire(30, TimeUnit.SECONDS);
        second.writeLock().release();
        said("read-write lock", read + " " + write + " " + later);
    }

    static void semaphore(CuratorFramework one, CuratorFramework two) throws Exception {
        InterProcessSemaphoreV2 first = new InterProcessSemaphoreV2(one, "/semaphore", 2);
        InterProcessSemaphoreV2 second = new InterProcessSemaphoreV2(two, "/semaphore", 2);
        var leases = first.acquire(2);
        boolean third = second.acquire(200, TimeUnit.MILLISECONDS) != null;
        first.returnAll(leases);
        boolean later = second.acquire(30, TimeUnit.SECONDS) != null;
        said("semaphore", third + " " + later);
    }

    static void latch(CuratorFramework one, CuratorFramework two) throws Exception {
        LeaderLatch first = new LeaderLatch(one, "/latch", "first");
        first.start();
        first.await();
        LeaderLatch second = new LeaderLatch(two, "/latch", "second");
        second.start();
        while (second.getParticipants().size() < 2) {
            Thread.sleep(10);
        }
        String before = second.getLeader().getId();
        first.close();
        second.await();
        said("leader latch", before + " then " + second.getLeader().getId());
        second.close();
    }

    static void counters(CuratorFramework one, CuratorFramework two) throws Exception {
        DistributedAtomicLong first =
            new DistributedAtomicLong(one, "/long", new ExponentialBackoffRetry(10, 20));
        DistributedAtomicLong second =
            new DistributedAtomicLong(two, "/long", new ExponentialBackoffRetry(10, 20));
        for (int n = 0; n < 20; n++) {
            first.increment();
            second.add(2L);
        }
        said("atomic long", first.get().postValue());
        SharedCount shared = new SharedCount(one, "/count", 7);
        SharedCount other = new SharedCount(two, "/count", 7);
        shared.start();
        other.start();
        boolean set = shared.trySetCount(shared.getVersionedValue(), 9);
        while (other.getCount() != 9) {
            Thread.sleep(10);
        }
        said("shared count", set + " " + other.getCount());
        shared.close();
        other.close();
    }

    static void barrier(CuratorFramework one, CuratorFramework two) throws Exception {
        CountDownLatch left = new CountDownLatch(2);
        for (CuratorFramework client : List.of(one, two)) {
            new Thread(() -> {
                DistributedDoubleBarrier barrier = new DistributedDoubleBarrier(client, "/barrier", 2);
                try {
                    barrier.enter();
                    barrier.leave();
                    left.countDown();
                } catch (Exception e) {
                    throw new IllegalStateException(e);
                }
            }).start();
        }
        said("double barrier", left.await(60, TimeUnit.SECONDS));
    }

    static void cache(CuratorFramework one, CuratorFramework two) throws Exception {
        one.create().forPath("/cache");
        List<String> seen = new ArrayList<>();
        CountDownLatch there = new CountDownLatch(1);
        AtomicInteger count = new AtomicInteger();
        CuratorCache cache = CuratorCache.build(two, "/cache");
        cache.listenable().addListener(CuratorCacheListener.builder()
            .forInitialized(there::countDown)
            .forAll((type, old, data) -> {
                synchronized (seen) {
                    seen.add(type + " " + (data != null ? data : old).getPath());
                }
                count.incrementAndGet();
            }).build());
        cache.start();
        there.await();
        // One after the other, since a cache may skip what has changed again.
        one.create().forPath("/cache/a", "1".getBytes());
        until(count, 2);
        one.setData().forPath("/cache/a", "2".getBytes());
        until(count, 3);
        one.delete().forPath("/cache/a");
        until(count, 4);
        synchronized (seen) {
            said("cache", seen);
        }
        cache.close();
    }

    static void until(AtomicInteger count, int wanted) throws Exception {
        for (int n = 0; n < 6000 && count.get() < wanted; n++) {
            Thread.sleep(10);
        }
    }

    static void members(CuratorFramework one, CuratorFramework two) throws Exception {
        GroupMember first = new GroupMember(one, "/members", "first");
        GroupMember second = new GroupMember(two, "/members", "second");
        first.start();
        second.start();
        while (first.getCurrentMembers().size() < 2) {
            Thread.sleep(10);
        }
        said("group", new java.util.TreeSet<>(first.getCurrentMembers().keySet()));
        first.close();
        second.close();
    }

    static void queue(CuratorFramework one, CuratorFramework two) throws Exception {
        CountDownLatch taken = new CountDownLatch(20);
        QueueSerializer<String> text = new QueueSerializer<>() {
            public byte[] serialize(String item) {
                return item.getBytes();
            }

            public String deserialize(byte[] bytes) {
                return new String(bytes);
            }
        };
        QueueConsumer<String> consumer = new QueueConsumer<>() {
            public void consumeMessage(String message) {
                taken.countDown();
            }

            public void stateChanged(CuratorFramework client, ConnectionState state) {
            }
        };
        try (DistributedQueue<String> out = QueueBuilder.builder(two, consumer, text, "/queue").buildQueue();
             DistributedQueue<String> in = QueueBuilder.builder(one, null, text, "/queue").buildQueue()) {
            out.start();
            in.start();
            for (int n = 0; n < 20; n++) {
                in.put("message " + n);
            }
            said("queue", taken.await(60, TimeUnit.SECONDS));
        }
    }

    static void persistent(CuratorFramework one, CuratorFramework two) throws Exception {
        PersistentNode node = new PersistentNode(one, CreateMode.EPHEMERAL, false, "/persistent", "x".getBytes());
        node.start();
        node.waitForInitialCreate(60, TimeUnit.SECONDS);
        two.delete().forPath("/persistent");
        while (two.checkExists().forPath("/persistent") == null) {
            Thread.sleep(10);
        }
        said("persistent node", new String(two.getData().forPath("/persistent")));
        node.close();
    }

    static void transaction(CuratorFramework one) throws Exception {
        var done = one.transaction().forOperations(
            one.transactionOp().create().forPath("/transaction", "a".getBytes()),
            one.transactionOp().setData().withVersion(0).forPath("/transaction", "b".getBytes()),
            one.transactionOp().check().withVersion(1).forPath("/transaction"));
        said("transaction", done.size() + " " + new String(one.getData().forPath("/transaction")));
        try {
            one.transaction().forOperations(
                one.transactionOp().create().forPath("/never"),
                one.transactionOp().check().withVersion(9).forPath("/transaction"));
        } catch (org.apache.zookeeper.KeeperException e) {
            said("failed transaction", e.code() + " " + (one.checkExists().forPath("/never") == null));
        }
    }
}
