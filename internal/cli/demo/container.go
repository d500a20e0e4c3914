package demo

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"time"
)

const targetContainer = "hello-container"

// dockerChapter tells the same with a container, where that can be done.
func (s *story) dockerChapter(ctx context.Context) error {
	docker := newEngine()
	switch {
	case s.noDocker:
		return nil
	case runtime.GOOS != "linux":
		s.show.say("\nThe part with a container is left out: it is told on Linux only.")
		return nil
	case !docker.answers(ctx) || !can(s.agent, "docker.deploy"):
		s.show.say("\nThe part with a container is left out: no Docker Engine answers at %s.", engineSocket)
		return nil
	case !static(s.plane.stella):
		s.show.say("\nThe part with a container is left out: this program is not static; `make build` makes one that is.")
		return nil
	}

	s.show.next("The same with a container: put two versions of an image into a registry on this machine")
	began := time.Now()
	image, digests, err := s.pushImages(ctx, docker)
	if err != nil {
		return err
	}
	s.show.done(began, "%s has the tags 1.0.0 and 2.0.0", image)

	port, err := freePort(ctx)
	if err != nil {
		return err
	}
	site := fmt.Sprintf("http://127.0.0.1:%d/", port)
	s.show.next("Deploy 1.0.0; its tag is resolved to the digest that is then deployed")
	if err := s.stella(ctx, 0, "target", "add", "docker", targetContainer, "--agent", agentName); err != nil {
		return err
	}
	target, err := s.client.Target(ctx, targetContainer)
	if err != nil {
		return err
	}
	s.leftovers = append(s.leftovers, func(ctx context.Context) {
		if err := docker.removeContainers(ctx, "stella.target.id="+target.ID); err != nil {
			s.show.io.Notef("containers could not be removed: %v", err)
		}
	})
	deploy := func(ref string) []string {
		return []string{
			"deploy", targetContainer, "--image", ref, "--name", fmt.Sprintf("stella-demo-%d", os.Getpid()),
			"--port", fmt.Sprintf("127.0.0.1:%d:8080", port), "--memory", "128m",
			"--health-http", site + "healthz", "--health-timeout", healthTimeout,
		}
	}
	if err := s.stella(ctx, 0, deploy(image+":1.0.0")...); err != nil {
		return err
	}
	if err := s.visit(ctx, site); err != nil {
		return err
	}

	s.show.next("Deploy 2.0.0, which does not work, by its digest")
	began = time.Now()
	if err := s.stella(ctx, 1, deploy(image+"@"+digests[1])...); err != nil {
		return err
	}
	if err := s.wasRolledBack(ctx, targetContainer); err != nil {
		return err
	}
	if err := s.visit(ctx, site); err != nil {
		return err
	}
	s.show.done(began, "the container of 1.0.0 was brought back")
	return s.stella(ctx, 0, "task", "list")
}

// pushImages makes the images and sees to it that the engine forgets them.
func (s *story) pushImages(ctx context.Context, docker *engine) (image string, digests []string, err error) {
	registry, err := startRegistry(ctx)
	if err != nil {
		return "", nil, err
	}
	image = registry.addr + "/hello"
	s.onEnd(func(context.Context) { _ = registry.server.Close() }) // nobody is left who would mind
	s.leftovers = append(s.leftovers, func(ctx context.Context) {
		for _, d := range digests {
			if err := docker.removeImage(ctx, image+"@"+d); err != nil {
				s.show.io.Notef("the image %s@%s could not be removed: %v", image, d, err)
			}
		}
	})
	layer, err := layerOf(s.plane.stella)
	if err != nil {
		return "", nil, err
	}
	for _, v := range [][]string{{"--version", "1.0.0"}, {"--version", "2.0.0", "--broken"}} {
		img, err := imageOf(layer, v...)
		if err != nil {
			return "", nil, err
		}
		digest, err := registry.push(ctx, "hello:"+v[1], img)
		if err != nil {
			return "", nil, err
		}
		digests = append(digests, digest)
	}
	return image, digests, nil
}
